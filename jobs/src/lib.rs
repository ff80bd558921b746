//! What job-submit, job-worker and job-admin have in common, and what would distract from their
//! lesson.

pub mod database;
pub mod dead;
mod handler;
pub mod job;
pub mod ledger;
pub mod overview;
mod publisher;
pub mod queue;
mod report;
pub mod schedule;
mod slots;
pub mod tables;
mod work;

pub use handler::Handler;
pub use job::{Delivery, Job, Kind, Order, Task};
pub use publisher::Publisher;
pub use report::Report;
pub use slots::Slots;
