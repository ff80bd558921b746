//! The tests of `mqtt-bridge`, one program: most of a test is waiting, so they run beside each other.

mod bridge;
mod faults;
mod first_versions;
mod prove;
mod readme;
mod support;
