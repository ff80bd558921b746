//! Jobs and their kinds.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Error, Result, ensure};
use async_nats::jetstream::Message;
use bytes::Bytes;
use common::payload;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The header that holds a job's id.
pub const JOB_ID: &str = "Job-Id";

/// The payload of a job.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Job {
    /// Unique: a second job with this id has no effect.
    pub job_id: String,
    /// The name of a [`Kind`].
    pub kind: String,
    /// Jobs with the same key are done in the order in which they were submitted, if their kind is
    /// one with order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What the handler of the kind needs.
    pub args: Map<String, Value>,
}

/// Whether a text can be an id, a kind or a key: `[A-Za-z0-9_-]{1,64}`, one token of a subject.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// What kind of work a job is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Quick.
    Email,
    /// In order for each key.
    Invoice,
    /// Takes long.
    Report,
    /// Fails now and then.
    Flaky,
    /// Kills its worker.
    Poison,
    /// Can never succeed.
    Bad,
}

/// How many jobs of a kind are delivered to a worker at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// Many: they are quick, and their order does not matter.
    Batches,
    /// As many as the worker runs at a time: they take long, and their order does not matter.
    Singly,
    /// One for each partition, to all workers together: jobs with the same key keep their order.
    PerKey,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Email, Self::Invoice, Self::Report, Self::Flaky, Self::Poison, Self::Bad];

    /// The name, as in a subject.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Invoice => "invoice",
            Self::Report => "report",
            Self::Flaky => "flaky",
            Self::Poison => "poison",
            Self::Bad => "bad",
        }
    }

    /// How its jobs are delivered.
    #[must_use]
    pub fn order(self) -> Order {
        match self {
            Self::Invoice => Order::PerKey,
            Self::Report => Order::Singly,
            Self::Email | Self::Flaky | Self::Poison | Self::Bad => Order::Batches,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| format!("unknown kind {name:?}; there are: {}", known()))
    }
}

/// What a worker has to do for a job.
#[derive(Clone, Debug)]
pub struct Task {
    /// The job's id. Give it to services that the handler calls: they can recognise a second call.
    pub job_id: String,
    /// Which handler does it.
    pub kind: Kind,
    /// What the handler needs.
    pub args: Map<String, Value>,
}

/// A message of the stream, delivered to a worker.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The job's id. If the message is no job: its `Job-Id` header, or a name made of its number in
    /// the stream.
    pub job_id: String,
    /// The kind that the subject names.
    pub kind: String,
    /// The job's key, if it has one.
    pub key: Option<String>,
    /// When nats-server stored the message, in nanoseconds since 1970-01-01 UTC. It tells two
    /// messages for the same job apart: one that is submitted again, or retried, has a later time.
    pub published: i64,
    /// The message's payload.
    pub payload: Bytes,
    /// What there is to do, or what is wrong with the message.
    pub task: Result<Task, String>,
}

impl Delivery {
    /// Reads a message.
    ///
    /// # Errors
    ///
    /// If no consumer has delivered it.
    pub fn read(message: &Message) -> Result<Self> {
        let info = message.info().map_err(Error::from_boxed)?;
        let published = i64::try_from(info.published.unix_timestamp_nanos())?;
        let kind = message.subject.split('.').nth(2).unwrap_or_default().to_owned();
        let payload = message.payload.clone();
        Ok(match read(&payload, &kind) {
            Ok((Job { job_id, key, args, .. }, known)) => {
                let task = Ok(Task { job_id: job_id.clone(), kind: known, args });
                Self { job_id, kind, key, published, payload, task }
            }
            Err(error) => {
                let header = message.headers.as_ref().and_then(|headers| headers.get(JOB_ID));
                let header = header.map(ToString::to_string).filter(|id| is_name(id));
                let number = || format!("number-{}", info.stream_sequence);
                let (job_id, task) = (header.unwrap_or_else(number), Err(error.to_string()));
                Self { job_id, kind, key: None, published, payload, task }
            }
        })
    }

    /// The time since nats-server stored the message.
    #[must_use]
    pub fn age(&self) -> Duration {
        let published = Duration::from_nanos(self.published.try_into().unwrap_or_default());
        (UNIX_EPOCH + published).elapsed().unwrap_or_default()
    }

    /// The subject to which the job is submitted.
    #[must_use]
    pub fn subject(&self) -> String {
        subject(&self.kind, self.key.as_ref().unwrap_or(&self.job_id))
    }
}

/// The subject to which a job is submitted; its key is its id if it has none. nats-server puts a
/// partition between kind and key.
#[must_use]
pub fn subject(kind: &str, key: &str) -> String {
    format!("jobs.new.{kind}.{key}")
}

fn read(payload: &[u8], on_subject: &str) -> Result<(Job, Kind)> {
    let job: Job = payload::parse(payload)?;
    for name in [&job.job_id].into_iter().chain(&job.key) {
        ensure!(is_name(name), "{name:?} is no id or key: 1 to 64 letters, digits, - and _");
    }
    let kind: Kind = job.kind.parse().map_err(Error::msg)?;
    ensure!(kind.name() == on_subject, "a job of the kind {kind} on a subject of {on_subject:?}");
    Ok((job, kind))
}
