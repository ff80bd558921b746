//! What job-admin prints.

use std::pin::pin;

use anyhow::{Result, bail};
use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::Stream;
use common::{Output, printable};
use futures::TryStreamExt;

use crate::job::{Job, is_name};
use crate::overview::{self, Consumers, Counts, State};
use crate::{dead, queue};

/// The two streams of the queue.
#[derive(Clone, Debug)]
pub struct Streams {
    /// Jobs that are not done yet.
    pub jobs: Stream,
    /// Dead letters.
    pub dead: Stream,
}

impl Streams {
    /// Opens the stream of the jobs, which job-submit and job-worker create, and that of the dead
    /// letters.
    ///
    /// # Errors
    ///
    /// The library's.
    pub async fn open(jetstream: &Context) -> Result<Self> {
        let jobs = jetstream.get_stream(queue::STREAM).await?;
        Ok(Self { jobs, dead: queue::open_dead(jetstream).await? })
    }

    /// Prints the jobs that are not done, each with its state.
    ///
    /// # Errors
    ///
    /// The library's. If stdout is closed.
    pub async fn list(&self, out: &mut Output) -> Result<()> {
        let consumers = Consumers::of(&self.jobs).await?;
        let mut messages = pin!(overview::messages(&self.jobs, ">"));
        while let Some(message) = messages.try_next().await? {
            let (id, state) = (overview::id_of(&message), consumers.state(&message));
            let kind = kind(&message);
            out.line(format_args!("{} {kind} {}", printable(id), describe(&state))).await?;
        }
        self.dead(out).await
    }

    /// Prints the dead jobs, and why they are dead.
    ///
    /// # Errors
    ///
    /// The library's. If stdout is closed.
    pub async fn dead(&self, out: &mut Output) -> Result<()> {
        let mut letters = pin!(overview::messages(&self.dead, ">"));
        while let Some(letter) = letters.try_next().await? {
            let (id, kind) = (overview::id_of(&letter), kind(&letter));
            let [reason, attempts, first, last, worker] = cause(&letter.headers);
            out.line(format_args!(
                "{id} {kind} dead: {reason} (attempts: {attempts}, first {first}, last {last}, {worker})"
            ))
            .await?;
        }
        Ok(())
    }

    /// Prints all that is known of a job.
    ///
    /// # Errors
    ///
    /// If there is no such job. The library's. If stdout is closed.
    pub async fn show(&self, id: &str, out: &mut Output) -> Result<()> {
        let (message, state) = if let Some(letter) = self.letter(id).await? {
            (letter, "dead".to_owned())
        } else if let Some(message) = overview::find(&self.jobs, id).await? {
            let state = Consumers::of(&self.jobs).await?.state(&message);
            (message, describe(&state))
        } else {
            bail!("no job {id}: it is done, was dropped or never submitted");
        };
        out.line(format_args!("id        {id}")).await?;
        out.line(format_args!("kind      {}", kind(&message))).await?;
        out.line(format_args!("state     {state}")).await?;
        if state == "dead" {
            let names = ["reason   ", "attempts ", "first    ", "last     ", "worker   "];
            for (name, value) in names.into_iter().zip(cause(&message.headers)) {
                out.line(format_args!("{name} {value}")).await?;
            }
        }
        let payload: String = String::from_utf8_lossy(&message.payload).escape_debug().collect();
        out.line(format_args!("payload   {}", payload.replace("\\\"", "\""))).await
    }

    /// Prints how many jobs of each kind there are, after the text `before`.
    ///
    /// # Errors
    ///
    /// The library's. If stdout is closed.
    pub async fn stats(&self, before: &str, out: &mut Output) -> Result<()> {
        let counts = overview::counts(&self.jobs, &self.dead).await?;
        out.line(format_args!("{before}kind       waiting  in flight     dead")).await?;
        for (kind, counts) in counts {
            let Counts { waiting, in_flight, dead } = counts;
            out.line(format_args!("{kind:<10} {waiting:>7} {in_flight:>10} {dead:>8}")).await?;
        }
        let delayed = overview::delayed(&self.jobs).await?;
        let unmatched: usize = overview::unmatched(&self.jobs).await?.iter().map(|it| it.1).sum();
        out.line(format_args!("delayed {delayed}, matched by no consumer {unmatched}")).await
    }

    /// Prints the subjects that no consumer's filter matches.
    ///
    /// # Errors
    ///
    /// The library's. If stdout is closed.
    pub async fn sweep(&self, out: &mut Output) -> Result<()> {
        let unmatched = overview::unmatched(&self.jobs).await?;
        for (subject, count) in &unmatched {
            let subject = printable(subject);
            out.line(format_args!("{subject}: {count} jobs, no consumer's filter matches it"))
                .await?;
        }
        let count: usize = unmatched.iter().map(|(_, count)| count).sum();
        out.line(match count {
            0 => "every job is matched by a consumer".to_owned(),
            _ => format!("{count} jobs wait for a worker of another kind, or for ever"),
        })
        .await
    }

    /// Finds the dead letter of a job.
    ///
    /// # Errors
    ///
    /// If it is no id. The library's.
    pub async fn letter(&self, id: &str) -> Result<Option<StreamMessage>> {
        if !is_name(id) {
            bail!("{id:?} is no id: 1 to 64 letters, digits, - and _");
        }
        pin!(overview::messages(&self.dead, &dead::subject("*", id))).try_next().await
    }
}

/// The kind of a job, as far as its message says it.
#[must_use]
pub fn kind(message: &StreamMessage) -> String {
    if message.subject.starts_with("jobs.sched.") {
        let job = common::payload::parse::<Job>(&message.payload);
        return job.map_or_else(|_| "unknown".into(), |job| printable(&job.kind));
    }
    printable(&overview::kind_of(&message.subject))
}

fn describe(state: &State) -> String {
    match state {
        State::Waiting => "waiting".into(),
        State::InFlight => "in flight".into(),
        State::Delayed(due) => format!("delayed until {}", printable(due)),
        State::Unmatched => "matched by no consumer".into(),
    }
}

/// Why a job is dead: reason, attempts, first and last time, worker.
fn cause(headers: &HeaderMap) -> [String; 5] {
    [dead::REASON, dead::ATTEMPTS, dead::FIRST_AT, dead::LAST_AT, dead::WORKER].map(|name| {
        headers.get(name).map_or_else(|| "unknown".into(), |value| printable(value.as_str()))
    })
}
