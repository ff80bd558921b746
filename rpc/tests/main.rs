//! The tests of `rpc`, one program: most of a test is waiting, so they run beside each other.

mod first_versions;
mod held;
mod prove;
mod readme;
mod restarts;
mod rpc;
