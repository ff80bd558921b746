//! The tests of `jobs`, one program: most of a test is waiting, so they run beside each other.

mod admin;
mod designs;
mod faults;
mod first_versions;
mod order;
mod prove;
mod readme;
mod support;
mod worker;
