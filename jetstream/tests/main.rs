//! The tests of `jetstream`, one program: most of a test is waiting, so they run beside each other.

mod faults;
mod first_versions;
mod orders;
mod prove;
mod readme;
