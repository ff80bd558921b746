//! What the tests of this experiment share: a server, a database, and what is in both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, ensure};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{self, AckKind, message::StreamMessage};
use futures::TryStreamExt;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use tempfile::TempDir;
use testkit::{Ended, Options, Program, Server};
use tokio::time::sleep;

const SUBMIT: &str = env!("CARGO_BIN_EXE_job-submit");
const WORKER: &str = env!("CARGO_BIN_EXE_job-worker");
const ADMIN: &str = env!("CARGO_BIN_EXE_job-admin");
/// As in the worker.
pub const ACK_WAIT: Duration = Duration::from_secs(5);

/// A queue of its own.
pub struct Queue {
    pub server: Server,
    folder: TempDir,
}

impl Queue {
    pub fn start() -> Result<Self> {
        Self::with(Server::options())
    }

    pub fn with(options: Options) -> Result<Self> {
        Ok(Self { server: options.start()?, folder: tempfile::tempdir()? })
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("jobs.db")
    }

    fn command(&self, program: &str, args: &str) -> Command {
        let mut command = self.server.command(program);
        command.args(args.split_whitespace());
        command
    }

    /// A worker that is ready.
    pub fn worker(&self, args: &str) -> Result<Program> {
        let mut worker =
            Program::spawn(self.command(WORKER, args).arg("--db").arg(self.database()))?;
        worker.expect("waiting for jobs")?;
        Ok(worker)
    }

    /// A worker that cannot make a file longer than some hundred kilobytes.
    pub fn worker_on_a_full_disk(&self) -> Result<Program> {
        let script = r#"trap "" XFSZ; ulimit -f 400; exec "$0" --db "$1""#;
        let mut shell = self.server.command("sh");
        Program::spawn(shell.args(["-c", script, WORKER]).arg(self.database()))
    }

    /// Runs job-submit; arguments that contain spaces come apart.
    pub fn submit(&self, args: &str) -> Result<Ended> {
        let ended = self.submitting(args)?.wait()?;
        ensure!(ended.success(), "{ended:?}");
        Ok(ended)
    }

    pub fn submitting(&self, args: &str) -> Result<Program> {
        Program::spawn(&mut self.command(SUBMIT, args))
    }

    /// Runs job-admin, and returns its lines.
    pub fn admin(&self, args: &str) -> Result<Vec<String>> {
        let ended = self.admin_ends(args)?;
        ensure!(ended.success(), "{ended:?}");
        Ok(ended.stdout)
    }

    pub fn admin_ends(&self, args: &str) -> Result<Ended> {
        Program::spawn(&mut self.command(ADMIN, args))?.wait()
    }

    /// job-admin watch, at work.
    pub fn watch(&self) -> Result<Program> {
        Program::spawn(&mut self.command(ADMIN, "watch --interval 100ms"))
    }

    pub async fn jetstream(&self) -> Result<jetstream::Context> {
        Ok(jetstream::new(async_nats::connect(self.server.url()).await?))
    }

    /// Publishes something, as a client in another language might.
    pub async fn publish(&self, subject: &str, payload: &str) -> Result<()> {
        let payload = payload.to_owned().into();
        self.jetstream().await?.publish(subject.to_owned(), payload).await?.await?;
        Ok(())
    }

    /// Waits until the stream `jobs` has at most so many messages.
    pub fn until_left(&self, count: u64) -> Result<()> {
        self.server.monitor_until("/jsz?streams=1", |jsz| {
            stream(jsz, "jobs").is_some_and(|it| it["state"]["messages"].as_u64() <= Some(count))
        })?;
        Ok(())
    }

    /// The figures of a consumer.
    pub fn consumer(&self, name: &str) -> Result<Value> {
        let jsz = self.server.monitor("/jsz?consumers=1")?;
        Ok(consumer(&jsz, name).with_context(|| format!("no consumer {name}"))?.clone())
    }

    /// How many of so many messages another program gets from a consumer at once. It hands them back.
    pub async fn delivered(&self, consumer: &str, count: usize) -> Result<usize> {
        let stream = self.jetstream().await?.get_stream("jobs").await?;
        let consumer: PullConsumer =
            stream.get_consumer(consumer).await.map_err(Error::from_boxed)?;
        let batch = consumer.batch().max_messages(count).expires(ACK_WAIT * 3 / 5);
        let messages = batch.messages().await?.map_err(Error::from_boxed);
        let messages: Vec<_> = messages.try_collect().await?;
        for message in &messages {
            message.ack_with(AckKind::Nak(None)).await.map_err(Error::from_boxed)?;
        }
        Ok(messages.len())
    }

    /// Waits until an attempt of this kind is in the database.
    pub async fn until_begun(&self, condition: &str) -> Result<()> {
        let attempt = format!("SELECT 1 FROM attempts WHERE {condition}");
        let give_up = Instant::now() + 10 * ACK_WAIT;
        while !self.sql()?.prepare(&attempt)?.exists([])? {
            ensure!(Instant::now() < give_up, "no attempt has begun where {condition}");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    pub fn sql(&self) -> Result<Connection> {
        Ok(Connection::open_with_flags(self.database(), OpenFlags::SQLITE_OPEN_READ_WRITE)?)
    }

    /// The ids of the jobs that have an effect, in the order in which they were done.
    pub fn effects(&self) -> Result<Vec<String>> {
        let sql = self.sql()?;
        let mut effects = sql.prepare("SELECT job_id FROM effects ORDER BY rowid")?;
        let effects = effects.query_map([], |row| row.get(0))?;
        Ok(effects.collect::<Result<_, _>>()?)
    }

    /// Each effect's time, in RFC 3339.
    pub fn times(&self) -> Result<BTreeMap<String, String>> {
        let sql = self.sql()?;
        let mut effects = sql.prepare("SELECT job_id, done_at FROM effects")?;
        let effects = effects.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(effects.collect::<Result<_, _>>()?)
    }

    /// The dead letters by job id, read by a client of the test.
    pub async fn dead(&self) -> Result<BTreeMap<String, StreamMessage>> {
        let stream = self.jetstream().await?.get_stream("jobs_dead").await?;
        let subjects: BTreeMap<String, usize> =
            stream.info_with_subjects("jobs.dead.>").await?.try_collect().await?;
        let mut dead = BTreeMap::new();
        for (subject, count) in subjects {
            ensure!(count == 1, "{count} messages on {subject}");
            let id = subject.rsplit('.').next().context("no id")?.to_owned();
            dead.insert(id, stream.get_last_raw_message_by_subject(&subject).await?);
        }
        Ok(dead)
    }

    /// Each of these jobs has one effect or one dead letter. Returns how many are dead.
    pub async fn each_once(&self, jobs: &BTreeSet<String>) -> Result<usize> {
        let effects: BTreeSet<_> = self.effects()?.into_iter().collect();
        let dead: BTreeSet<_> = self.dead().await?.into_keys().collect();
        let both = effects.intersection(&dead).count();
        ensure!(both == 0, "{both} jobs have an effect and a dead letter");
        let ended: BTreeSet<_> = effects.union(&dead).cloned().collect();
        let lost: Vec<_> = jobs.difference(&ended).collect();
        ensure!(lost.is_empty(), "{} jobs are lost: {lost:?}", lost.len());
        ensure!(ended == *jobs, "{} jobs were not submitted", ended.len() - jobs.len());
        Ok(dead.len())
    }
}

fn stream<'a>(jsz: &'a Value, name: &str) -> Option<&'a Value> {
    let streams = jsz["account_details"][0]["stream_detail"].as_array()?;
    streams.iter().find(|stream| stream["name"] == name)
}

/// A consumer's figures in what /jsz?consumers=1 answers.
pub fn consumer<'a>(jsz: &'a Value, name: &str) -> Option<&'a Value> {
    let consumers = stream(jsz, "jobs")?["consumer_detail"].as_array()?;
    consumers.iter().find(|consumer| consumer["name"] == name)
}

/// The value of a header.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str> {
    Ok(headers.get(name).with_context(|| format!("no header {name}"))?.as_str())
}

/// The ids in the lines `<id> done`.
pub fn done(lines: &[String]) -> Vec<&str> {
    lines.iter().filter_map(|line| line.strip_suffix(" done")).collect()
}
