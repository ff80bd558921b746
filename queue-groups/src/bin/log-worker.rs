//! Handles log entries from `logs.process`. All workers share them: each entry goes to one worker.
//!
//! ```sh
//! cargo run -p queue-groups --bin log-worker     # terminal 1, 2 and 3, or more
//! cargo run -p queue-groups --bin log-publisher  # terminal 4
//! ```

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use common::payload::{self, LogEntry};
use common::{CancellationToken, Output, Tally};
use futures::StreamExt;
use tokio::time::sleep;

const SUBJECT: &str = "logs.process";
const QUEUE_GROUP: &str = "log_workers";

/// Handles log entries, together with all other workers.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    /// Name of this worker in its lines [default: a random one]
    #[arg(long, default_value_t = queue_groups::random_name(), hide_default_value = true)]
    name: String,
    /// Stop after this many entries
    #[arg(long)]
    limit: Option<u64>,
    /// Time spent on each entry, e.g. 50ms
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    work: Duration,
    /// How many messages may wait in this worker; more are dropped
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..))]
    buffer: u32,
    /// Print no line for each entry
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    common::run(work)
}

async fn work(args: Args, stop: CancellationToken) -> Result<()> {
    let (name, buffer) = (args.name, usize::try_from(args.buffer)?);
    // nats-server does not wait for a slow worker: messages for which it has no room are dropped.
    let nats =
        args.nats.connect_with("log-worker", &stop, |with| with.subscription_capacity(buffer));
    let nats = nats.await?;

    // All subscribers with the same queue group share the messages: each goes to one of them.
    let logs = nats.queue_subscribe(SUBJECT, QUEUE_GROUP.into()).await?;
    // From here on nats-server knows this worker. (`flush` would only wait until it is written.)
    nats.round_trip().await?;
    let mut out = Output::new();
    out.line(format_args!("{name}: waiting for {SUBJECT} in the group {QUEUE_GROUP}")).await?;

    // After Ctrl-C or SIGTERM the loop goes on until everything is handled that nats-server had
    // given to this worker: no other worker would get it.
    let mut logs = nats.drain_on_stop(logs);
    let (mut tally, mut skipped) = (Tally::default(), 0);
    while tally.left(args.limit) > 0
        && let Some(log) = logs.next().await
    {
        // Any program may publish anything on this subject.
        let LogEntry { id, level, message } = match payload::parse(&log.payload) {
            Ok(entry) => entry,
            Err(error) => {
                skipped += 1;
                let why = common::printable(&error.to_string());
                tracing::warn!("skipped a message that is no log entry: {why}");
                continue;
            }
        };
        if !args.work.is_zero() {
            sleep(args.work).await;
        }
        if !args.quiet {
            out.line(format_args!("{name}: log {id} {level} {message:?}")).await?;
        }
        tally.add();
    }

    out.line(format_args!("{name}: {}", tally.summary("messages"))).await?;
    out.flush().await?;
    nats.permitted()?; // fails if nats-server has denied the subscription

    let (left, dropped) = (nats.undrained(), nats.dropped(tally.count() + skipped));
    if dropped > 0 && args.limit.is_none() {
        tracing::warn!("{dropped} messages were dropped");
    }
    ensure!(left == 0, "{left} messages are lost: after the stop there was no time to handle them");
    Ok(())
}
