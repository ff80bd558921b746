//! The tests of `hello`, one program: most of a test is waiting, so they run beside each other.

mod bad_input;
mod first_versions;
mod hello;
mod prove;
mod readme;
