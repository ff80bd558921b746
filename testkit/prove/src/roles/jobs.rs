//! The queue of jobs, and what workers print about them.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, bail};
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{Config, RetentionPolicy, SubjectTransform};
use async_nats::jetstream::{self, AckKind, Context};
use futures::TryStreamExt;
use serde_json::{Value, json};
use testkit::{Link, Server};

use crate::instance::Instance;
use crate::roles::durable::number;
use crate::verdict::{Flaw, shown};
use crate::{Launch, Trial};

/// The stream of the jobs that are not done yet.
const JOBS: &str = "jobs";
/// The stream of the dead jobs.
const DEAD: &str = "jobs_dead";

/// A worker has to do its first job by then.
pub(super) const READY: Duration = Duration::from_secs(30);

/// The queue has to be empty by then, whatever a worker does. A busy machine needs less.
const EMPTY: Duration = Duration::from_secs(90);

/// Pause between two looks at what announces no event.
const LOOK: Duration = Duration::from_millis(20);

/// A job, as job-submit stores it.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) id: String,
    pub(super) kind: &'static str,
    pub(super) key: Option<String>,
}

impl Job {
    pub(super) fn new(kind: &'static str, number: u64) -> Self {
        Self { id: format!("prove-{kind}-{number:05}"), kind, key: None }
    }

    pub(super) fn key(self, key: &str) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    pub(super) fn subject(&self) -> String {
        format!("jobs.new.{}.{}", self.kind, self.key.as_ref().unwrap_or(&self.id))
    }

    pub(super) fn payload(&self) -> String {
        let mut payload = json!({ "job_id": self.id, "kind": self.kind, "args": {} });
        if let Some(key) = &self.key {
            payload["key"] = key.as_str().into();
        }
        payload.to_string()
    }

    /// Its message without a message id: nats-server stores it again, as it does when the first one
    /// is too long ago.
    pub(super) fn message(&self) -> PublishMessage {
        PublishMessage::build().payload(self.payload().into()).header("Job-Id", self.id.as_str())
    }
}

/// So many jobs of a kind.
pub(super) fn jobs(kind: &'static str, numbers: std::ops::RangeInclusive<u64>) -> Vec<Job> {
    numbers.map(|number| Job::new(kind, number)).collect()
}

/// A queue of its own, and the workers that take jobs from it.
pub(super) struct Queue<'a, S = Server> {
    trial: &'a Trial,
    pub(super) server: S,
    jetstream: Context,
    pub(super) lines: Lines,
}

impl<'a> Queue<'a> {
    /// Starts nats-server, and creates the streams.
    pub(super) fn start(trial: &'a Trial) -> Result<Self> {
        Self::on(trial, trial.server()?)
    }
}

impl<'a, S: Borrow<Server>> Queue<'a, S> {
    /// Creates the streams, if they are not there.
    pub(super) fn on(trial: &'a Trial, server: S) -> Result<Self> {
        let jetstream = jetstream::new(trial.client(server.borrow())?);
        let queue = Self { trial, server, jetstream, lines: Lines::default() };
        let duplicate_window = Duration::from_secs(120);
        let jobs = Config {
            name: JOBS.into(),
            subjects: vec!["jobs.new.>".into(), "jobs.sched.>".into()],
            retention: RetentionPolicy::WorkQueue,
            duplicate_window,
            allow_message_schedules: true,
            allow_rollup: true,
            subject_transform: Some(SubjectTransform {
                source: "jobs.new.*.*".into(),
                destination: "jobs.new.{{wildcard(1)}}.{{partition(32,2)}}.{{wildcard(2)}}".into(),
            }),
            ..Default::default()
        };
        let dead = Config {
            name: DEAD.into(),
            subjects: vec!["jobs.dead.>".into()],
            max_messages_per_subject: 1,
            duplicate_window,
            ..Default::default()
        };
        trial.block_on(async {
            queue.jetstream.create_stream(jobs).await?;
            queue.jetstream.create_stream(dead).await?;
            anyhow::Ok(())
        })?;
        Ok(queue)
    }

    /// Connects the check's own client again at once.
    pub(super) fn reconnect(&mut self) -> Result<()> {
        self.jetstream = jetstream::new(self.trial.client(self.server.borrow())?);
        Ok(())
    }

    fn launch(&self, flags: &str) -> Launch<'_> {
        let lines = self.lines.clone();
        let copy = lines.0.copies.fetch_add(1, Ordering::Relaxed);
        let file = self.server.borrow().folder().join("jobs.db");
        let launch =
            self.trial.launch(self.server.borrow()).args("--db").arg(&file.to_string_lossy());
        launch.args(flags).on_line(move |line| lines.note(copy, line))
    }

    /// Starts a worker. Its number among the copies counts from 0.
    pub(super) fn worker(&self, flags: &str) -> Result<Instance> {
        self.launch(flags).start()
    }

    /// Starts a worker that uses this link.
    pub(super) fn worker_over(&self, link: &Link) -> Result<Instance> {
        self.launch("").url(&link.url()).start()
    }

    /// Stores messages, and waits for all acknowledgements.
    pub(super) fn store(
        &self,
        messages: impl IntoIterator<Item = (String, PublishMessage)>,
    ) -> Result<()> {
        const IN_FLIGHT: usize = 256;
        self.trial.block_on(async {
            let mut acks: VecDeque<PublishAckFuture> = VecDeque::new();
            for (subject, message) in messages {
                if acks.len() == IN_FLIGHT
                    && let Some(ack) = acks.pop_front()
                {
                    ack.await?;
                }
                acks.push_back(self.jetstream.send_publish(subject, message).await?);
            }
            for ack in acks {
                ack.await?;
            }
            Ok(())
        })
    }

    /// Stores jobs, as job-submit does.
    pub(super) fn submit<'j>(&self, jobs: impl IntoIterator<Item = &'j Job>) -> Result<()> {
        let message = |job: &Job| (job.subject(), job.message().message_id(&job.id));
        self.store(jobs.into_iter().map(message))
    }

    /// Submits jobs until each of these copies has done one.
    pub(super) fn until_all_work(&self, copies: &mut [&mut Instance]) -> Result<()> {
        let all = copies.len();
        let is_at_work = |lines: &[Line]| {
            lines.iter().map(|line| line.copy).collect::<BTreeSet<_>>().len() >= all
        };
        let begun = Instant::now();
        // Several jobs each time: a copy might never get one that comes alone.
        for first in (90_000..).step_by(all) {
            self.submit(&jobs("email", first..=first + all as u64 - 1))?;
            if self.lines.wait(Duration::from_millis(100), is_at_work) {
                break;
            }
            let mut end = None;
            for copy in &mut *copies {
                end = end.or(copy.end()?);
            }
            if end.is_some() || begun.elapsed() > READY {
                let end = end.unwrap_or_else(|| "All run.".into());
                bail!(Flaw::new(format!("not each of {all} copies does jobs")).saw(end));
            }
        }
        Ok(())
    }

    /// What nats-server's monitoring says.
    pub(super) fn figures(&self) -> Result<Figures> {
        let jsz = self.server.borrow().monitor("/jsz?consumers=1&config=1")?;
        let streams = jsz["account_details"][0]["stream_detail"].as_array();
        let jobs = streams.into_iter().flatten().find(|stream| stream["name"] == JOBS);
        let jobs = jobs.cloned().unwrap_or_default();
        let left = number(&jobs, "/state/messages");
        let consumers = jobs["consumer_detail"].as_array().cloned().unwrap_or_default();
        Ok(Figures { left, stored: number(&jobs, "/state/last_seq"), consumers })
    }

    /// Waits until the queue is empty. A [`Flaw`] if one of these copies ends before, or nothing
    /// happens for longer than it takes until a job is delivered again.
    pub(super) fn until_empty(&self, copies: &mut [&mut Instance]) -> Result<()> {
        let begun = Instant::now();
        let mut last = ((0, 0), begun);
        loop {
            let figures = self.figures()?;
            if figures.left == 0 && figures.sum("/num_ack_pending") == 0 {
                // A repetition needs a moment to show itself.
                self.lines.wait(Duration::from_millis(300), |_| false);
                return Ok(());
            }
            let sign = (figures.left, self.lines.count());
            if sign != last.0 {
                last = (sign, Instant::now());
            }
            let mut end = None;
            for copy in &mut *copies {
                end = end.or(copy.end()?);
            }
            let patience = figures.patience();
            if end.is_some() || last.1.elapsed() > patience || begun.elapsed() > EMPTY {
                let end = end.unwrap_or_else(|| "It runs.".into());
                let (left, after) = (figures.left, shown(begun.elapsed()));
                bail!(
                    Flaw::new(format!("{left} messages stay in the queue")).saw(format!(
                        "{end} {left} messages were in the stream jobs after {after}."
                    ))
                );
            }
            thread::sleep(LOOK);
        }
    }

    /// The dead letters by their subjects.
    pub(super) fn dead(&self) -> Result<BTreeMap<String, StreamMessage>> {
        self.trial.block_on(async {
            let stream = self.jetstream.get_stream(DEAD).await?;
            let subjects: BTreeMap<String, usize> =
                stream.info_with_subjects("jobs.dead.>").await?.try_collect().await?;
            let mut dead = BTreeMap::new();
            for (subject, _) in subjects {
                let letter = stream.get_last_raw_message_by_subject(&subject).await?;
                dead.insert(subject, letter);
            }
            Ok(dead)
        })
    }

    /// How many jobs another program gets at once, and how many it has to get. It hands them back.
    pub(super) fn delivered_at_once(&self) -> Result<(u64, u64)> {
        let figures = self.figures()?;
        let (mut got, mut expected) = (0, 0);
        for consumer in &figures.consumers {
            let left = number(consumer, "/num_pending") + number(consumer, "/num_ack_pending");
            // nats-server delivers no more than that at a time.
            let most = number(consumer, "/config/max_ack_pending");
            let count = if most > 0 { left.min(most) } else { left };
            let name = consumer["name"].as_str().context("a consumer without a name")?;
            if count > 0 {
                expected += count;
                got += self.trial.block_on(self.fetch(name, count))?;
            }
        }
        Ok((got, expected))
    }

    /// Fetches jobs, and hands them back. Returns how many came within 3 s.
    async fn fetch(&self, consumer: &str, count: u64) -> Result<u64> {
        let consumer = self.jetstream.get_consumer_from_stream(consumer, JOBS).await;
        let consumer: PullConsumer = consumer.context("no such pull consumer")?;
        let batch = consumer.batch().max_messages(usize::try_from(count)?);
        let batch = batch.expires(Duration::from_secs(3)).messages().await?;
        let messages: Vec<_> = batch.try_collect().await.map_err(Error::from_boxed)?;
        for message in &messages {
            message.ack_with(AckKind::Nak(None)).await.map_err(Error::from_boxed)?;
        }
        Ok(messages.len() as u64)
    }

    /// A flaw if a line is missing that says of one of these jobs that it is done, or if there are
    /// two.
    pub(super) fn each_once(&self, jobs: &[Job]) -> Result<(), Flaw> {
        // The last lines need a moment to be read.
        let ids: BTreeSet<&str> = jobs.iter().map(|job| job.id.as_str()).collect();
        let is_done = |line: &&Line| line.said == Said::Done && ids.contains(line.id.as_str());
        self.lines.wait(Duration::from_secs(3), |lines| {
            lines.iter().filter(is_done).count() >= ids.len()
        });
        let missing = self.missing_unless_twice(jobs)?.len();
        if missing > 0 {
            let all = jobs.len();
            return Err(Flaw::new(format!("{missing} of {all} jobs were not done"))
                .saw(format!("The queue is empty. {missing} jobs have no line with `done`.")));
        }
        Ok(())
    }

    /// As [`each_once`](Self::each_once), but a worker that was killed may have done a job and not
    /// printed its line. Such a job is submitted again: if it is done then, it was lost. Returns how
    /// many have no line.
    pub(super) fn each_once_through_kills(
        &self,
        jobs: &[Job],
        worker: &mut Instance,
    ) -> Result<usize> {
        let missing = self.missing_unless_twice(jobs)?;
        self.store(missing.iter().map(|job| (job.subject(), job.message())))?;
        self.until_empty(&mut [worker])?;
        let lost = missing.len() - self.missing_unless_twice(jobs)?.len();
        if lost > 0 {
            let all = jobs.len();
            bail!(Flaw::new(format!("{lost} of {all} jobs were lost")).saw(format!(
                "They had left the queue, and had no line with `done`. Submitted again, {lost} were done, so they had not been done before."
            )));
        }
        Ok(missing.len())
    }

    /// The jobs without a line that says that they are done. A flaw if one has two.
    fn missing_unless_twice<'j>(&self, jobs: &'j [Job]) -> Result<Vec<&'j Job>, Flaw> {
        let times = self.lines.times();
        let times = |job: &Job| times.get(&job.id).copied().unwrap_or(0);
        let twice = jobs.iter().filter(|job| times(job) > 1).count();
        if twice > 0 {
            return Err(Flaw::new(format!("{twice} of {} jobs were done twice", jobs.len()))
                .saw(format!("More than one line with `done` came for {twice} jobs.")));
        }
        Ok(jobs.iter().filter(|job| times(job) == 0).collect())
    }
}

/// What nats-server's monitoring says of the queue.
pub(super) struct Figures {
    /// Messages in the stream.
    pub(super) left: u64,
    /// Messages that were stored so far.
    pub(super) stored: u64,
    /// Its consumers.
    pub(super) consumers: Vec<Value>,
}

impl Figures {
    /// The sum of a number of all consumers.
    pub(super) fn sum(&self, pointer: &str) -> u64 {
        self.consumers.iter().map(|consumer| number(consumer, pointer)).sum()
    }

    /// A job is delivered again by then, if it is at all: after `ack_wait`, or after the longest
    /// pause between two attempts, 8 s and a fifth.
    pub(super) fn patience(&self) -> Duration {
        let longest = self.consumers.iter().map(|consumer| number(consumer, "/config/ack_wait"));
        // In nanoseconds.
        let ack_wait = Duration::from_nanos(longest.max().unwrap_or_default());
        ack_wait.min(Duration::from_secs(30)) + Duration::from_secs(11)
    }
}

/// What a line says of a job.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Said {
    Done,
    Again,
    Dead,
}

/// A line about a job.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Which copy has printed it.
    pub(super) copy: usize,
    pub(super) id: String,
    pub(super) said: Said,
    /// When it was read.
    pub(super) at: Instant,
}

impl Line {
    fn parse(copy: usize, line: &str) -> Option<Self> {
        let is_word = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        let mut words = line.split(|c| !is_word(c));
        let id = words.find(|word| word.starts_with("prove-"))?.to_owned();
        let said = words.find_map(|word| match word {
            "done" => Some(Said::Done),
            "again" => Some(Said::Again),
            "dead" => Some(Said::Dead),
            _ => None,
        })?;
        Some(Self { copy, id, said, at: Instant::now() })
    }
}

/// The lines of all copies about jobs, in the order in which they were read.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Default)]
struct Shared {
    copies: AtomicUsize,
    lines: Mutex<Vec<Line>>,
    changed: Condvar,
}

impl Lines {
    fn note(&self, copy: usize, line: &str) {
        if let Some(line) = Line::parse(copy, line) {
            self.lock().push(line);
            self.0.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Line>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the lines are enough. Returns whether they are.
    pub(super) fn wait(&self, limit: Duration, is_enough: impl Fn(&[Line]) -> bool) -> bool {
        let waited =
            self.0.changed.wait_timeout_while(self.lock(), limit, |lines| !is_enough(lines));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Waits until this job is done, and returns when its line was read.
    pub(super) fn wait_for(&self, id: &str, limit: Duration) -> Option<Instant> {
        let is_it = |line: &&Line| line.id == id && line.said == Said::Done;
        self.wait(limit, |lines| lines.iter().any(|line| is_it(&line)));
        self.lock().iter().find(is_it).map(|line| line.at)
    }

    /// Waits until a copy has printed so many lines.
    pub(super) fn wait_for_copy(&self, copy: usize, count: usize, limit: Duration) -> bool {
        self.wait(limit, |lines| lines.iter().filter(|line| line.copy == copy).count() >= count)
    }

    pub(super) fn count(&self) -> u64 {
        self.lock().len() as u64
    }

    pub(super) fn all(&self) -> Vec<Line> {
        self.lock().clone()
    }

    /// The lines that say of a job that it is done.
    pub(super) fn done(&self) -> Vec<Line> {
        let lines = self.lock();
        lines.iter().filter(|line| line.said == Said::Done).cloned().collect()
    }

    /// How often each job was done.
    pub(super) fn times(&self) -> BTreeMap<String, u32> {
        let mut times = BTreeMap::new();
        for line in self.done() {
            *times.entry(line.id).or_default() += 1;
        }
        times
    }
}
