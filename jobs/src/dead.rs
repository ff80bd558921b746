//! Dead letters: jobs that are not tried again, and why.

use anyhow::Result;
use async_nats::jetstream::Context;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageErrorKind, Stream};

use crate::job::{Delivery, JOB_ID};
use crate::ledger::Death;
use crate::queue;

/// Header: the last error.
pub const REASON: &str = "Job-Reason";
/// Header: how often the job was tried.
pub const ATTEMPTS: &str = "Job-Attempts";
/// Header: when it was first tried, in RFC 3339.
pub const FIRST_AT: &str = "Job-First-At";
/// Header: when it was last tried.
pub const LAST_AT: &str = "Job-Last-At";
/// Header: the worker that noticed.
pub const WORKER: &str = "Job-Worker";

/// The subject of a dead job.
#[must_use]
pub fn subject(kind: &str, job_id: &str) -> String {
    format!("jobs.dead.{kind}.{job_id}")
}

/// Room for the headers of a dead letter, without the reason.
const HEADERS: usize = 1024;

/// Publishes a job as a dead letter, and returns when it is stored. A message may be `max_payload` bytes
/// long, headers included: a payload for which that is too little is cut.
///
/// # Errors
///
/// The library's.
pub async fn publish(
    jetstream: &Context,
    delivery: &Delivery,
    death: &Death,
    worker: &str,
    max_payload: usize,
) -> Result<()> {
    let Delivery { job_id, kind, published, payload, .. } = delivery;
    let room = max_payload.saturating_sub(HEADERS + death.reason.len());
    let (kept, length) = (payload.slice(..payload.len().min(room)), payload.len());
    let note = format!(" (payload cut, it had {length} bytes)");
    let note = if kept.len() < length { note.as_str() } else { "" };
    let message = PublishMessage::build()
        .payload(kept)
        // If the job's message is delivered once more, its dead letter is not stored once more,
        // although it may have been retried or dropped meanwhile.
        .message_id(format!("{job_id}.{published}"))
        .header(JOB_ID, job_id.as_str())
        .header(REASON, format!("{}{note}", death.reason))
        .header(ATTEMPTS, death.attempts.to_string())
        .header(FIRST_AT, death.first_at.as_str())
        .header(LAST_AT, death.last_at.as_str())
        .header(WORKER, worker);
    queue::open_dead(jetstream).await?;
    jetstream.send_publish(subject(kind, job_id), message).await?.await?;
    Ok(())
}

/// Deletes the dead letter of a job that is delivered again. A later letter stays: it is from
/// another worker, which has tried the same message.
///
/// # Errors
///
/// The library's.
pub async fn delete(jetstream: &Context, delivery: &Delivery) -> Result<()> {
    let dead = queue::open_dead(jetstream).await?;
    if let Some(letter) = last(&dead, &delivery.kind, &delivery.job_id).await?
        && letter.time.unix_timestamp_nanos() < delivery.published.into()
    {
        remove(&dead, letter.sequence).await?;
    }
    Ok(())
}

/// Deletes the letter with this number, or finds it deleted already: `job-admin` and workers may
/// delete the same one.
///
/// # Errors
///
/// The library's, if the letter is still there.
pub async fn remove(dead: &Stream, sequence: u64) -> Result<()> {
    let Err(error) = dead.delete_message(sequence).await else { return Ok(()) };
    match dead.get_raw_message(sequence).await {
        Err(gone) if gone.kind() == RawMessageErrorKind::NoMessageFound => Ok(()),
        _ => Err(error.into()),
    }
}

/// Whether a job is still dead: neither retried nor dropped.
///
/// # Errors
///
/// The library's.
pub async fn exists(jetstream: &Context, kind: &str, job_id: &str) -> Result<bool> {
    let dead = queue::open_dead(jetstream).await?;
    Ok(last(&dead, kind, job_id).await?.is_some())
}

async fn last(dead: &Stream, kind: &str, job_id: &str) -> Result<Option<StreamMessage>> {
    match dead.get_last_raw_message_by_subject(&subject(kind, job_id)).await {
        Ok(letter) => Ok(Some(letter)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
