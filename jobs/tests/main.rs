//! The tests of `jobs`, one program: most of a test is waiting, so they run beside each other.

mod admin;
mod faults;
mod order;
mod support;
mod worker;
