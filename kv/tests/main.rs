//! The tests of `kv`, one program: most of a test is waiting, so they run beside each other.

mod faults;
mod first_versions;
mod kv;
mod prove;
mod readme;
