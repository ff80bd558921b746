//! Does the jobs of a work queue: each has one effect, however often it is delivered, or ends as a
//! dead letter.
//!
//! ```sh
//! cargo run -p jobs --bin job-worker                 # terminal 1, and as many more as you like
//! cargo run -p jobs --bin job-submit -- email        # terminal 2
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::{Context, ContextBuilder};
use common::jetstream::{Batch, Failure, Pull, open_durable, retry, with_progress};
use common::{CancellationToken, Connection, Output, Stopped};
use futures::TryFutureExt;
use futures::future::{join_all, try_join_all};
use job_queue::ledger::Ledger;
use job_queue::queue::{self, ACK_WAIT, STREAM};
use job_queue::{Handler, Kind, Order, Publisher, Report, Slots};

/// Requests for quick jobs that wait at a time: a batch is fetched while another one is stored.
const BATCHES: u16 = 4;
/// Quick jobs in a batch. If a worker is killed, its batches are delivered again after
/// `ACK_WAIT`.
const BATCH: usize = 250;
/// nats-server ends a batch after this time, even if it is not full.
const EXPIRES: Duration = Duration::from_secs(1);
/// Time that nats-server has to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Does the jobs in the stream `jobs`.
#[derive(clap::Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    /// Kinds of jobs to take, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "KIND", default_values_t = Kind::ALL)]
    kinds: Vec<Kind>,
    /// How many jobs of a kind run at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    concurrency: u16,
    /// Stop after this many jobs that are done
    #[arg(long)]
    limit: Option<u64>,
    /// The SQLite file for the effects, which all workers share
    #[arg(long, default_value = "jobs.db", value_name = "FILE")]
    db: PathBuf,
    /// Invoices wait while an earlier one with their key is dead
    #[arg(long)]
    strict: bool,
    /// Time spent on each job
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    work: Duration,
    /// Print no line for each job
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    common::run(work_jobs)
}

async fn work_jobs(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("job-worker", &stop).await?;
    // Stops when the program is told to, and when `--limit` is reached.
    let nats = nats.with_stop(stop.child_token());
    let jetstream = ContextBuilder::new().timeout(TIMEOUT).ack_timeout(TIMEOUT);
    let jetstream = jetstream.build((*nats).clone());
    let open = async || {
        queue::open_dead(&jetstream).await?;
        queue::open_jobs(&jetstream, args.strict).await
    };
    let opened = retry(&nats, &[Failure::Unanswered], Duration::MAX, open).await;
    opened.with_context(|| format!("cannot take jobs on {}", nats.servers()))?;

    let name = format!("worker-{}", std::process::id());
    let ledger = Ledger::open(&args.db, &name)?;
    let mut output = Output::new();
    let kinds = args.kinds.iter().map(Kind::to_string).collect::<Vec<_>>().join(", ");
    output.line(format_args!("{name}: waiting for jobs: {kinds}")).await?;
    let handler = Handler {
        ledger,
        publisher: Publisher { nats: nats.clone(), jetstream: jetstream.clone(), worker: name },
        slots: Slots::new(args.concurrency.into(), args.limit, nats.stop().clone()),
        report: Report::new(output, args.quiet, args.limit, nats.stop().clone()),
        strict: args.strict,
        work: args.work,
        stop: nats.stop().clone(),
    };
    // For each consumer, as many requests for jobs wait as the worker runs jobs of that kind.
    let mut lanes = Vec::new();
    for &kind in &args.kinds {
        let (requests, batch) = match kind.order() {
            Order::Batches if args.work.is_zero() => (BATCHES, BATCH),
            Order::Batches | Order::Singly => (args.concurrency, 1),
            Order::PerKey => (1, 1),
        };
        for consumer in queue::consumers(kind) {
            let lane = || take_jobs(&nats, &jetstream, &handler, consumer.clone(), batch);
            // If one fails, all end: a worker that takes only some of its kinds looks healthy.
            let lane = || lane().inspect_err(|_| nats.stop().cancel());
            lanes.extend((0..requests).map(|_| lane()));
        }
    }
    let ended = join_all(lanes).await;

    handler.report.finish().await?;
    let mut errors = ended.into_iter().filter_map(Result::err);
    errors.find(|error| !error.is::<Stopped>()).map_or(Ok(()), Err)
}

/// Takes jobs from one consumer until the program is told to stop.
async fn take_jobs(
    nats: &Connection,
    jetstream: &Context,
    handler: &Handler,
    consumer: pull::Config,
    max_messages: usize,
) -> Result<()> {
    let open = async || open_durable(jetstream, STREAM, consumer.clone()).await;
    let mut pull = Pull::open(nats, Batch { max_messages, expires: EXPIRES }, open).await?;
    while let Some(messages) = pull.next(u64::MAX).await? {
        let answers = messages.into_iter().map(|message| async {
            // Each report starts ACK_WAIT anew: a job that takes long is not delivered again.
            let answer = with_progress(&message, ACK_WAIT / 3, handler.handle(&message)).await??;
            anyhow::Ok(answer.map(|answer| (message, answer)))
        });
        let answers = try_join_all(answers).await?;
        pull.acknowledge(answers.into_iter().flatten().collect()).await?;
    }
    pull.close().await
}
