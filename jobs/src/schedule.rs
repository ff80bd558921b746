//! Jobs that nats-server holds back until they are due.

use std::time::{Duration, SystemTime};

use async_nats::header::{NATS_SCHEDULE, NATS_SCHEDULE_TARGET};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;

use crate::job::JOB_ID;

/// The subject of a job that is not due yet.
#[must_use]
pub fn subject(job_id: &str) -> String {
    format!("jobs.sched.{job_id}")
}

/// A message that nats-server publishes to `target` when `delay` is over. A later one on the same
/// subject replaces it.
#[must_use]
pub fn message(payload: Bytes, job_id: &str, target: &str, delay: Duration) -> PublishMessage {
    let due = humantime::format_rfc3339_millis(SystemTime::now() + delay);
    // On the message that nats-server publishes later are only headers that are not its own: JOB_ID
    // is, the message id is not.
    PublishMessage::build()
        .payload(payload)
        .header(JOB_ID, job_id)
        .header(NATS_SCHEDULE, format!("@at {due}"))
        .header(NATS_SCHEDULE_TARGET, target)
}
