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
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::{Context, ContextBuilder};
use common::jetstream::{Window, explain, publish_all};
use common::{CancellationToken, Connection, Output};
use futures::TryStreamExt;
use job_queue::job::{self, JOB_ID, Job};
use job_queue::queue::STREAM;
use job_queue::tables::{Streams, kind};
use job_queue::{dead, overview, schedule};
use tokio::time::sleep;

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
    nats.give_up_if_refused();
    let jetstream = ContextBuilder::new().timeout(TIMEOUT).ack_timeout(TIMEOUT);
    let jetstream = jetstream.build((*nats).clone());
    let opened = Streams::open(&jetstream).await;
    let queue =
        opened.map_err(|error| anyhow!("{}: {}", nats.servers(), explain(error.as_ref())))?;
    let mut out = Output::new();
    let done = match &args.command {
        Command::List => queue.list(&mut out).await,
        Command::Dead => queue.dead(&mut out).await,
        Command::Show { id } => queue.show(id, &mut out).await,
        Command::Retry { id, .. } => {
            retry(&nats, &jetstream, &queue, id.as_deref(), &mut out).await
        }
        Command::Drop { id } => drop_job(&queue, id, &mut out).await,
        Command::Stats => queue.stats("", &mut out).await,
        Command::Sweep => queue.sweep(&mut out).await,
        Command::Watch { interval } => watch(&queue, *interval, &stop, &mut out).await,
    };
    out.flush().await?;
    nats.permitted()?;
    done.with_context(|| nats.servers().to_owned())
}

/// Puts dead jobs back into the queue, in the order of their deaths.
async fn retry(
    nats: &Connection,
    jetstream: &Context,
    queue: &Streams,
    id: Option<&str>,
    out: &mut Output,
) -> Result<()> {
    let letters: Vec<StreamMessage> = match id {
        Some(id) => vec![queue.letter(id).await?.with_context(|| format!("no dead job {id}"))?],
        None => overview::messages(&queue.dead, ">").try_collect().await?,
    };
    let letters = letters.into_iter();
    let message = |letter: &StreamMessage| Ok(again(letter));
    let open = async || {
        jetstream.get_stream(STREAM).await?;
        Ok(())
    };
    let mut stored = pin!(publish_all(nats, jetstream, WINDOW, letters, message, open));
    let mut count = 0;
    while let Some((letter, _)) = stored.try_next().await? {
        // Stored first, then deleted: if job-admin is killed in between, the job is not lost. The
        // letter is deleted by its number: if the job is dead again by now, it has a new one.
        dead::remove(&queue.dead, letter.sequence).await?;
        count += 1;
        out.line(format_args!("{} is in the queue again", overview::id_of(&letter))).await?;
    }
    if id.is_none() {
        out.line(format_args!("{count} jobs are in the queue again")).await?;
    }
    Ok(())
}

async fn drop_job(queue: &Streams, id: &str, out: &mut Output) -> Result<()> {
    if let Some(letter) = queue.letter(id).await? {
        dead::remove(&queue.dead, letter.sequence).await?;
    } else if queue.jobs.purge().filter(schedule::subject(id)).await?.purged == 0 {
        bail!("no job {id} that is dead or not due yet");
    }
    out.line(format_args!("{id} is dropped")).await
}

async fn watch(
    queue: &Streams,
    interval: Duration,
    stop: &CancellationToken,
    out: &mut Output,
) -> Result<()> {
    // Moves the cursor to the top and clears what is below.
    let clear = if stdout().is_terminal() { "\u{1b}[H\u{1b}[J" } else { "" };
    while let Some(shown) = stop.run_until_cancelled(queue.stats(clear, out)).await {
        if let Err(error) = shown {
            out.line(format_args!("{clear}{}", explain(error.as_ref()))).await?;
        }
        out.flush().await?;
        stop.run_until_cancelled(sleep(interval)).await;
    }
    Ok(())
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
