//! The tests of `queue-groups`, one program: most of a test is waiting, so they run beside each other.

mod first_versions;
mod prove;
mod queue_groups;
mod readme;
mod stopping;
mod support;
