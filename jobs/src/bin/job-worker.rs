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
use async_nats::jetstream::{AckKind, Context, ContextBuilder, Message};
use common::jetstream::{Batch, Failure, Pull, open_durable, retry, with_progress};
use common::{CancellationToken, Connection, Output, Stopped};
use futures::future::{join_all, try_join_all};
use job_queue::ledger::{Death, End, Ledger, Start};
use job_queue::queue::{self, ACK_WAIT, STREAM};
use job_queue::{Delivery, Kind, Order, Publisher, Report, Slots, Task};
use tokio::time::{sleep, timeout};

/// Batches of quick jobs that are in hand at a time: one is fetched while another is stored.
const BATCHES: u16 = 4;
/// Quick jobs in a batch. If a worker is killed, its batches are delivered again after
/// `ACK_WAIT`.
const BATCH: usize = 250;
/// nats-server ends a batch after this time, even if it is not full.
const EXPIRES: Duration = Duration::from_secs(1);
/// Time that nats-server has to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Time that running jobs have to end after the worker is told to stop. The others are handed back.
const FINISH: Duration = Duration::from_secs(2);
/// Time that the database has to take back their attempts.
const HAND_BACK_TIMEOUT: Duration = Duration::from_millis(300);
/// Pause before a job is tried a second time. It doubles with each attempt, and up to a fifth of it
/// is added by chance: jobs that failed together are not tried again together.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// With `--strict`: pause before a job that waits for a dead one looks again.
const HOLD: Duration = Duration::from_secs(2);
/// The job is delivered again at once, to any worker.
const HAND_BACK: AckKind = AckKind::Nak(None);

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
    /// Jobs with a key wait while an earlier one with their key is dead
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
    let worker = Worker {
        slots: Slots::new(args.concurrency.into(), args.limit, nats.stop().clone()),
        report: Report::new(output, args.quiet, args.limit, nats.stop().clone()),
        publisher: Publisher { nats: nats.clone(), jetstream: jetstream.clone(), worker: name },
        nats,
        jetstream,
        ledger,
        strict: args.strict,
        work: args.work,
    };
    // A worker asks each consumer for jobs, as many times as it can run them.
    let mut lanes = Vec::new();
    for &kind in &args.kinds {
        let (requests, batch) = match kind.order() {
            Order::Batches if args.work.is_zero() => (BATCHES, BATCH),
            Order::Batches | Order::Singly => (args.concurrency, 1),
            Order::PerKey => (1, 1),
        };
        for config in queue::consumers(kind) {
            lanes.extend((0..requests).map(|_| worker.take(config.clone(), batch)));
        }
    }
    let ended = join_all(lanes).await;

    worker.report.finish().await?;
    let mut errors = ended.into_iter().filter_map(Result::err);
    errors.find(|error| !error.is::<Stopped>()).map_or(Ok(()), Err)
}

/// What is needed to do a job.
struct Worker {
    nats: Connection,
    jetstream: Context,
    ledger: Ledger,
    publisher: Publisher,
    slots: Slots,
    report: Report,
    strict: bool,
    work: Duration,
}

impl Worker {
    /// Takes jobs from one consumer until the program is told to stop.
    async fn take(&self, consumer: pull::Config, max_messages: usize) -> Result<()> {
        let open = async || open_durable(&self.jetstream, STREAM, consumer.clone()).await;
        let mut pull =
            Pull::open(&self.nats, Batch { max_messages, expires: EXPIRES }, open).await?;
        while let Some(messages) = pull.next(u64::MAX).await? {
            let answers = messages.into_iter().map(|message| async {
                // Each report starts ACK_WAIT anew: a job that takes long is not delivered again.
                let answer = with_progress(&message, ACK_WAIT / 3, self.handle(&message)).await??;
                anyhow::Ok(answer.map(|answer| (message, answer)))
            });
            let answers = try_join_all(answers).await;
            let answers = answers.inspect_err(|_| self.nats.stop().cancel())?;
            pull.acknowledge(answers.into_iter().flatten().collect()).await?;
        }
        pull.close().await
    }

    /// Does a job that was delivered. Returns what nats-server is told about it.
    async fn handle(&self, message: &Message) -> Result<Option<AckKind>> {
        let delivery = Delivery::read(message)?;
        let task = match &delivery.task {
            Ok(task) => task,
            Err(why) => return self.bury(&delivery, &Death::untried(why)).await,
        };
        tokio::select! {
            biased;
            answer = self.attempt(&delivery, task) => answer,
            () = self.out_of_time() => {
                // It was no attempt. If the database is locked, it counts as one.
                let _ = timeout(HAND_BACK_TIMEOUT, self.ledger.hand_back(&delivery)).await;
                Ok(Some(HAND_BACK))
            }
        }
    }

    /// Tries a job, unless it is done, dead or told to wait.
    async fn attempt(&self, delivery: &Delivery, task: &Task) -> Result<Option<AckKind>> {
        let Some(mut slot) = self.slots.one(task.kind).await else { return Ok(Some(HAND_BACK)) };
        let mut start = self.ledger.begin(delivery, self.strict, false).await?;
        if start == Start::Alone {
            drop(slot);
            let Some(all) = self.slots.all().await else { return Ok(Some(HAND_BACK)) };
            slot = all;
            start = self.ledger.begin(delivery, self.strict, true).await?;
        }
        let attempt = match start {
            Start::Run(attempt) => attempt,
            Start::Alone | Start::Nothing => return Ok(Some(AckKind::Ack)),
            Start::Dead(death) => return self.bury(delivery, &death).await,
            Start::Wait(earlier) => return self.hold(delivery, &earlier).await,
        };

        if !self.work.is_zero() {
            sleep(self.work).await;
        }
        let result = task.run(attempt.number, delivery.age()).await;
        slot.ended();
        let end = match result {
            Ok(()) => self.ledger.done(&attempt).await?,
            Err(failure) => self.ledger.failed(&attempt, &failure).await?,
        };
        let (id, number) = (&delivery.job_id, attempt.number);
        match end {
            End::Done => {
                slot.done();
                self.report.done(id).await?;
                Ok(Some(AckKind::Ack))
            }
            End::Again(error) => {
                let pause = FIRST_PAUSE * 2_u32.pow(number - 1);
                let pause = pause.mul_f64(rand::random_range(1.0..1.2));
                let seconds = pause.as_secs_f64();
                self.report
                    .line(format_args!(
                        "{id} again in {seconds:.1} s: attempt {number} failed, {error}"
                    ))
                    .await?;
                Ok(Some(AckKind::Nak(Some(pause))))
            }
            End::Dead(death) => self.bury(delivery, &death).await,
            // Another worker has it, and will answer.
            End::Overtaken => Ok(None),
        }
    }

    /// Only when its dead letter is stored the job is terminated, which deletes it from the queue.
    async fn bury(&self, delivery: &Delivery, death: &Death) -> Result<Option<AckKind>> {
        if !self.publisher.bury(delivery, death).await? {
            return Ok(Some(HAND_BACK));
        }
        let (id, Death { attempts, reason, .. }) = (&delivery.job_id, death);
        self.report.line(format_args!("{id} dead (attempts: {attempts}): {reason}")).await?;
        Ok(Some(AckKind::Term))
    }

    /// An earlier job with the same key is dead. The job comes again after a moment.
    async fn hold(&self, delivery: &Delivery, earlier: &str) -> Result<Option<AckKind>> {
        if !self.publisher.hold(delivery, earlier, HOLD, &self.ledger).await? {
            return Ok(Some(HAND_BACK));
        }
        let id = &delivery.job_id;
        self.report.line(format_args!("{id} again in {HOLD:?}: it waits for {earlier}")).await?;
        Ok(Some(AckKind::Ack))
    }

    /// Resolves when running jobs are out of time, because the program was told to stop.
    async fn out_of_time(&self) {
        self.nats.stop().cancelled().await;
        sleep(FINISH).await;
    }
}
