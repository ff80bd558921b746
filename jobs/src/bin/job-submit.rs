//! Submits jobs to a work queue, and counts a job only when nats-server has stored it.
//!
//! ```sh
//! cargo run -p jobs --bin job-submit -- email '{"to": "ann@example.com"}'  # now
//! cargo run -p jobs --bin job-submit -- email --delay 30s                  # later
//! cargo run -p jobs --bin job-submit -- invoice --key ann --count 3        # in order for ann
//! ```

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::Subject;
use async_nats::jetstream::ContextBuilder;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use common::CancellationToken;
use common::jetstream::{Failure, Window, print_stored, publish_all, retry};
use job_queue::job::{self, JOB_ID, Job, Kind};
use job_queue::{queue, schedule};
use serde_json::{Map, Value};

/// Time that nats-server has to acknowledge a job.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest delay.
const MAX_DELAY: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Submits jobs to the stream `jobs`.
#[derive(clap::Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    /// What kind of work: email, invoice, report, flaky, poison or bad
    #[arg(value_parser = name)]
    kind: String,
    /// What the job needs, a JSON object
    #[arg(value_name = "ARGS-JSON", default_value = "{}", value_parser = object)]
    arguments: Map<String, Value>,
    /// The job's id: of two jobs with one id, one is done. With --count, -1, -2 … is added
    #[arg(long, value_parser = name)]
    id: Option<String>,
    /// Invoices with the same key are written in the order in which they are submitted
    #[arg(long, value_parser = name)]
    key: Option<String>,
    /// How long nats-server holds the job back
    #[arg(long, value_name = "DURATION", value_parser = delay)]
    delay: Option<Duration>,
    /// How many jobs to submit
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// How many jobs may be in flight: sent, and not acknowledged yet
    #[arg(long, default_value_t = 256, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1000))]
    in_flight: u16,
    /// Give up when nats-server has stored nothing for this long
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    patience: Duration,
    /// Print no line for each job
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    common::run(submit_jobs)
}

async fn submit_jobs(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("job-submit", &stop).await?;
    nats.give_up_if_refused();
    let jetstream = ContextBuilder::new().timeout(ACK_TIMEOUT).ack_timeout(ACK_TIMEOUT);
    let jetstream = jetstream.build((*nats).clone());
    let open = async || {
        queue::open_jobs(&jetstream, args.delay.is_some()).await?;
        Ok(())
    };
    let opened = retry(&nats, &[Failure::Unanswered], args.patience, open).await;
    opened.with_context(|| format!("cannot submit jobs on {}", nats.servers()))?;
    if let Err(unknown) = args.kind.parse::<Kind>() {
        tracing::warn!("no job-worker of this version does it: {unknown}");
    }

    let jobs = jobs(&args)?;
    // Jobs in flight share a round trip. After an outage they are sent again.
    let window = Window { in_flight: args.in_flight.into(), patience: args.patience };
    let message = |job: &Job| message(job, args.delay);
    let stored = publish_all(&nats, &jetstream, window, jobs, message, open);
    let line = |job: &Job, ack: &PublishAck| {
        let note = if ack.duplicate { " (was stored already)" } else { "" };
        let line = format!("{} stored as number {}{note}", job.job_id, ack.sequence);
        (!args.quiet).then_some(line)
    };
    print_stored(&nats, "jobs", stored, line).await
}

/// The jobs, each with an id of its own.
fn jobs(args: &Args) -> Result<impl Iterator<Item = Job>> {
    let id = args.id.clone().unwrap_or_else(|| format!("{:016x}", rand::random::<u64>()));
    let is_one = args.id.is_some() && args.count <= 1;
    let job_id = move |number| if is_one { id.clone() } else { format!("{id}-{number}") };
    ensure!(job::is_name(&job_id(args.count)), "--id is too long for --count");
    let Args { kind, key, arguments, count, .. } = args;
    Ok((1..=*count).map(move |number| Job {
        job_id: job_id(number),
        kind: kind.clone(),
        key: key.clone(),
        args: arguments.clone(),
    }))
}

/// The subject and the message of a job. By the message id nats-server recognises a job that is sent
/// again.
fn message(job: &Job, delay: Option<Duration>) -> Result<(Subject, PublishMessage)> {
    let payload = serde_json::to_vec(job)?.into();
    let id = job.job_id.as_str();
    let target = job::subject(&job.kind, job.key.as_ref().unwrap_or(&job.job_id));
    let (subject, message) = match delay {
        None => (target, PublishMessage::build().payload(payload).header(JOB_ID, id)),
        Some(delay) => (schedule::subject(id), schedule::message(payload, id, &target, delay)),
    };
    Ok((subject.into(), message.message_id(id)))
}

fn name(text: &str) -> Result<String> {
    ensure!(job::is_name(text), "1 to 64 letters, digits, - and _");
    Ok(text.into())
}

fn object(text: &str) -> Result<Map<String, Value>> {
    serde_json::from_str(text).context("not a JSON object")
}

fn delay(text: &str) -> Result<Duration> {
    let delay = humantime::parse_duration(text)?;
    ensure!(delay <= MAX_DELAY, "more than a year");
    Ok(delay)
}
