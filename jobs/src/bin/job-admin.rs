//! Shows what waits, runs, is delayed or dead, and puts dead jobs back into the queue.
//!
//! ```sh
//! cargo run -p jobs --bin job-admin -- stats
//! cargo run -p jobs --bin job-admin -- dead
//! cargo run -p jobs --bin job-admin -- retry --all
//! ```

use std::io::{IsTerminal, stdout};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use async_nats::Subject;
use async_nats::header::HeaderMap;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{Context, ContextBuilder};
use common::jetstream::{Window, explain, publish_all};
use common::{CancellationToken, Connection, Output, printable};
use futures::TryStreamExt;
use job_queue::job::{self, JOB_ID, Job};
use job_queue::overview::{self, Consumers, State};
use job_queue::queue::STREAM;
use job_queue::{dead, schedule};

/// Time that nats-server has to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How dead jobs are put back: so many at a time, and with so much patience.
const WINDOW: Window = Window { in_flight: 256, patience: Duration::from_secs(30) };

/// Shows the jobs in the streams `jobs` and `jobs_dead`, and puts dead ones back into the queue.
#[derive(clap::Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// The jobs that are not done, each with its state
    List,
    /// The dead jobs, and why they are dead
    Dead,
    /// All that is known of a job
    Show { id: String },
    /// Put a dead job back into the queue, or all of them
    Retry {
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        id: Option<String>,
        #[arg(long)]
        all: bool,
    },
    /// Delete a job that is dead or not due yet
    Drop { id: String },
    /// How many jobs of each kind wait, are in flight or dead
    Stats,
    /// Find jobs that no worker can get, as no consumer's filter matches their subjects
    Sweep,
    /// The table of `stats`, again and again
    Watch {
        /// Pause before the table is shown again
        #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = humantime::parse_duration)]
        interval: Duration,
    },
}

fn main() -> ExitCode {
    common::run(administer)
}

async fn administer(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("job-admin", &stop).await?;
    let jetstream = ContextBuilder::new().timeout(TIMEOUT).ack_timeout(TIMEOUT);
    let jetstream = jetstream.build((*nats).clone());
    let admin = Admin::open(&nats, jetstream).await;
    let admin =
        admin.map_err(|error| anyhow!("{}: {}", nats.servers(), explain(error.as_ref())))?;
    let mut out = Output::new();
    let done = match &args.command {
        Command::List => admin.list(&mut out).await,
        Command::Dead => admin.dead(&mut out).await,
        Command::Show { id } => admin.show(id, &mut out).await,
        Command::Retry { id, .. } => admin.retry(id.as_deref(), &mut out).await,
        Command::Drop { id } => admin.drop(id, &mut out).await,
        Command::Stats => admin.stats("", &mut out).await,
        Command::Sweep => admin.sweep(&mut out).await,
        Command::Watch { interval } => admin.watch(*interval, &mut out).await,
    };
    out.flush().await?;
    nats.permitted()?;
    done.with_context(|| nats.servers().to_owned())
}

struct Admin<'a> {
    nats: &'a Connection,
    jetstream: Context,
    jobs: Stream,
    dead: Stream,
}

impl<'a> Admin<'a> {
    /// Opens the streams. It creates none: job-submit and job-worker do.
    async fn open(nats: &'a Connection, jetstream: Context) -> Result<Self> {
        let jobs = jetstream.get_stream(STREAM).await?;
        let dead = job_queue::queue::open_dead(&jetstream).await?;
        Ok(Self { nats, jetstream, jobs, dead })
    }

    async fn list(&self, out: &mut Output) -> Result<()> {
        let consumers = Consumers::of(&self.jobs).await?;
        let mut messages = pin!(overview::messages(&self.jobs, ">"));
        while let Some(message) = messages.try_next().await? {
            let (id, state) = (overview::id_of(&message), consumers.state(&message));
            let kind = kind(&message);
            out.line(format_args!("{} {kind} {}", printable(id), describe(&state))).await?;
        }
        self.dead(out).await
    }

    async fn dead(&self, out: &mut Output) -> Result<()> {
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

    async fn show(&self, id: &str, out: &mut Output) -> Result<()> {
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

    /// Puts dead jobs back into the queue, in the order of their deaths.
    async fn retry(&self, id: Option<&str>, out: &mut Output) -> Result<()> {
        let letters: Vec<StreamMessage> = match id {
            Some(id) => vec![self.letter(id).await?.with_context(|| format!("no dead job {id}"))?],
            None => overview::messages(&self.dead, ">").try_collect().await?,
        };
        let open = async || Ok(self.jetstream.get_stream(STREAM).await.map(drop)?);
        let letters = letters.into_iter();
        let mut stored = pin!(publish_all(
            self.nats,
            &self.jetstream,
            WINDOW,
            letters,
            |letter| Ok(again(letter)),
            open
        ));
        let mut count = 0;
        while let Some((letter, _)) = stored.try_next().await? {
            // Stored first, then deleted: a job that is interrupted in between is not lost. It is
            // deleted by its number: if it is dead again by now, that is another one.
            let deleted = self.dead.delete_message(letter.sequence).await;
            let id = overview::id_of(&letter);
            if let Err(error) = deleted {
                tracing::debug!("{id} was deleted already: {error}");
            }
            count += 1;
            out.line(format_args!("{id} is in the queue again")).await?;
        }
        if id.is_none() {
            out.line(format_args!("{count} jobs are in the queue again")).await?;
        }
        Ok(())
    }

    async fn drop(&self, id: &str, out: &mut Output) -> Result<()> {
        if let Some(letter) = self.letter(id).await? {
            self.dead.delete_message(letter.sequence).await?;
        } else if self.jobs.purge().filter(schedule::subject(id)).await?.purged == 0 {
            bail!("no job {id} that is dead or not due yet");
        }
        out.line(format_args!("{id} is dropped")).await
    }

    async fn stats(&self, before: &str, out: &mut Output) -> Result<()> {
        let counts = overview::counts(&self.jobs, &self.dead).await?;
        out.line(format_args!("{before}kind       waiting  in flight     dead")).await?;
        for (kind, counts) in counts {
            let overview::Counts { waiting, in_flight, dead } = counts;
            out.line(format_args!("{kind:<10} {waiting:>7} {in_flight:>10} {dead:>8}")).await?;
        }
        let delayed = overview::delayed(&self.jobs).await?;
        let unmatched: usize = overview::unmatched(&self.jobs).await?.iter().map(|it| it.1).sum();
        out.line(format_args!("delayed {delayed}, matched by no consumer {unmatched}")).await
    }

    async fn sweep(&self, out: &mut Output) -> Result<()> {
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

    async fn watch(&self, interval: Duration, out: &mut Output) -> Result<()> {
        // Moves the cursor to the top and clears what is below.
        let clear = if stdout().is_terminal() { "\u{1b}[H\u{1b}[J" } else { "" };
        let stop = self.nats.stop().clone();
        while let Some(shown) = stop.run_until_cancelled(self.stats(clear, out)).await {
            if let Err(error) = shown {
                out.line(format_args!("{clear}{}", explain(error.as_ref()))).await?;
            }
            out.flush().await?;
            stop.run_until_cancelled(tokio::time::sleep(interval)).await;
        }
        Ok(())
    }

    async fn letter(&self, id: &str) -> Result<Option<StreamMessage>> {
        if !job::is_name(id) {
            bail!("{id:?} is no id: 1 to 64 letters, digits, - and _");
        }
        pin!(overview::messages(&self.dead, &dead::subject("*", id))).try_next().await
    }
}

/// The job of a dead letter as a new message. By the message id nats-server recognises that a letter
/// is retried twice.
fn again(letter: &StreamMessage) -> (Subject, PublishMessage) {
    let id = overview::id_of(letter);
    let key = common::payload::parse::<Job>(&letter.payload).ok().and_then(|job| job.key);
    let key = key.filter(|key| job::is_name(key));
    let subject = job::subject(&kind(letter), key.as_deref().unwrap_or(id));
    let message = PublishMessage::build()
        .payload(letter.payload.clone())
        .header(JOB_ID, id)
        .message_id(format!("{id}.retry.{}", letter.sequence));
    (subject.into(), message)
}

fn kind(message: &StreamMessage) -> String {
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
