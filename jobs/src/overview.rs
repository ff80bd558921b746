//! What is in the queue, as nats-server knows it.

use std::collections::BTreeMap;

use anyhow::Result;
use async_nats::header::NATS_SCHEDULE;
use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use async_stream::try_stream;
use futures::{TryStreamExt, pin_mut};

use crate::job::JOB_ID;
use crate::schedule;

/// What becomes of a job that is neither done nor dead.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// It was not delivered yet.
    Waiting,
    /// It was delivered and not acknowledged: it runs, or has failed and is tried again.
    InFlight,
    /// nats-server holds it back until this time, in RFC 3339.
    Delayed(String),
    /// No consumer delivers it, as none has a filter that matches its subject.
    Unmatched,
}

/// How many jobs of a kind there are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Not delivered yet.
    pub waiting: u64,
    /// Delivered and not acknowledged.
    pub in_flight: u64,
    /// Dead.
    pub dead: u64,
}

/// The consumers of the queue, each with its filter and how far it is.
pub struct Consumers(Vec<Info>);

impl Consumers {
    /// Asks nats-server.
    ///
    /// # Errors
    ///
    /// The library's.
    pub async fn of(jobs: &Stream) -> Result<Self> {
        Ok(Self(jobs.consumers().try_collect().await?))
    }

    /// What becomes of the job in this message.
    #[must_use]
    pub fn state(&self, message: &StreamMessage) -> State {
        if let Some(due) = message.headers.get(NATS_SCHEDULE) {
            return State::Delayed(due.as_str().trim_start_matches("@at ").into());
        }
        match self.matching(&message.subject) {
            None => State::Unmatched,
            Some(consumer) if message.sequence > consumer.delivered.stream_sequence => {
                State::Waiting
            }
            Some(_) => State::InFlight,
        }
    }

    /// The consumer that delivers what is on this subject.
    #[must_use]
    pub fn matching(&self, subject: &str) -> Option<&Info> {
        self.0.iter().find(|Info { config, .. }| {
            let filters = &config.filter_subjects;
            let of_one = filters.is_empty() && matches(&config.filter_subject, subject);
            of_one || filters.iter().any(|filter| matches(filter, subject))
        })
    }
}

/// How many jobs of each kind there are.
///
/// # Errors
///
/// The library's.
pub async fn counts(jobs: &Stream, dead: &Stream) -> Result<BTreeMap<String, Counts>> {
    let mut counts = BTreeMap::<_, Counts>::new();
    for info in Consumers::of(jobs).await?.0 {
        let of_kind = counts.entry(kind_of(&info.config.filter_subject)).or_default();
        of_kind.waiting += info.num_pending;
        of_kind.in_flight += u64::try_from(info.num_ack_pending)?;
    }
    let mut letters = dead.info_with_subjects("jobs.dead.>").await?;
    while let Some((subject, count)) = letters.try_next().await? {
        counts.entry(kind_of(&subject)).or_default().dead += u64::try_from(count)?;
    }
    Ok(counts)
}

/// How many jobs are not due yet.
///
/// # Errors
///
/// The library's.
pub async fn delayed(jobs: &Stream) -> Result<u64> {
    let subjects = jobs.info_with_subjects(schedule::subject("*")).await?;
    subjects
        .map_ok(|(_, count)| count as u64)
        .try_fold(0, async |sum, n| Ok(sum + n))
        .await
        .map_err(Into::into)
}

/// The subjects that no consumer's filter matches, and how many jobs are on each.
///
/// # Errors
///
/// The library's.
pub async fn unmatched(jobs: &Stream) -> Result<Vec<(String, usize)>> {
    let consumers = Consumers::of(jobs).await?;
    let subjects = jobs.info_with_subjects("jobs.new.>").await?;
    let mut subjects: Vec<_> = subjects.try_collect().await?;
    subjects.retain(|(subject, _)| consumers.matching(subject).is_none());
    subjects.sort();
    Ok(subjects)
}

/// The messages of a stream on a subject, the oldest first.
pub fn messages<I: Sync>(
    stream: &Stream<I>,
    subject: &str,
) -> impl futures::Stream<Item = Result<StreamMessage>> {
    try_stream! {
        let mut sequence = 1;
        loop {
            let next = stream.raw_message_builder().sequence(sequence).next_by_subject(subject);
            match next.send().await {
                Ok(message) => {
                    sequence = message.sequence + 1;
                    yield message;
                }
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => break,
                Err(error) => Err(error)?,
            }
        }
    }
}

/// The message of a job that is neither done nor dead.
///
/// # Errors
///
/// The library's.
pub async fn find(jobs: &Stream, job_id: &str) -> Result<Option<StreamMessage>> {
    let messages = messages(jobs, ">");
    pin_mut!(messages);
    while let Some(message) = messages.try_next().await? {
        if id_of(&message) == job_id {
            return Ok(Some(message));
        }
    }
    Ok(None)
}

/// The job's id, by the header or else the subject of its message.
#[must_use]
pub fn id_of(message: &StreamMessage) -> &str {
    let last = || message.subject.rsplit('.').next().unwrap_or_default();
    message.headers.get(JOB_ID).map_or_else(last, |id| id.as_str())
}

/// The kind in a subject or filter, `jobs.new.<kind>.…`.
#[must_use]
pub fn kind_of(subject: &str) -> String {
    subject.split('.').nth(2).unwrap_or_default().to_owned()
}

/// Whether a subject matches a filter with wildcards. An empty filter is none.
fn matches(filter: &str, subject: &str) -> bool {
    let filter = if filter.is_empty() { ">" } else { filter };
    let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
    loop {
        match (filter.next(), subject.next()) {
            (None, None) | (Some(">"), Some(_)) => return true,
            (Some(wanted), Some(token)) if wanted == "*" || wanted == token => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn wildcards_match_as_nats_server_matches_them() {
        assert!(matches("jobs.new.email.>", "jobs.new.email.7.ann"));
        assert!(matches("jobs.*.email", "jobs.new.email"));
        assert!(matches("", "jobs.new.email"));
        for other in ["jobs.new.email", "jobs.new.emails.7.ann", "jobs.new"] {
            assert!(!matches("jobs.new.email.>", other), "{other}");
        }
        assert!(!matches("jobs.new", "jobs.new.email"));
    }
}
