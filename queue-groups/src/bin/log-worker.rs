//! Handles log entries from `logs.process`, together with all other workers: each entry goes to
//! one of them.
//!
//! ```sh
//! cargo run -p queue-groups --bin log-worker     # terminal 1, 2 and 3, and as many as you like
//! cargo run -p queue-groups --bin log-publisher  # terminal 4
//! ```

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{Write, stdout};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::Result;
use clap::Parser;
use common::Tally;
use common::payload::{self, LogEntry};
use futures::StreamExt;

const SUBJECT: &str = "logs.process";
const QUEUE_GROUP: &str = "log_workers";

/// Handles log entries, together with all other workers.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    /// What this worker calls itself [default: a name drawn at random]
    #[arg(long)]
    name: Option<String>,
    /// Stop after this many entries
    #[arg(long)]
    limit: Option<u64>,
    /// How many messages may wait while the worker is busy; more are dropped
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..))]
    buffer: u32,
    /// Print no line for each entry
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    // The server sends what comes, asked or not: a thread has to read on while lines are written.
    common::run_multi_thread(work(common::parse()))
}

async fn work(args: Args) -> Result<()> {
    let name = args
        .name
        .unwrap_or_else(|| pronounceable(RandomState::new().hash_one(())));
    // Messages do not wait at the server: it sends them on as they come. A worker that handles them
    // more slowly has to hold them itself, 65,536 unless it says otherwise, and drops the rest.
    let buffer = usize::try_from(args.buffer)?;
    let client = args
        .nats
        .connect_with("log-worker", |options| {
            options.subscription_capacity(buffer)
        })
        .await?;

    // Everyone who subscribes to a subject gets each message; of those who name the same queue
    // group only one does, drawn at random. Nothing else has to be set up: the group exists as
    // long as it has members, and grows and shrinks with them.
    let logs = client.queue_subscribe(SUBJECT, QUEUE_GROUP.into()).await?;
    client.flush().await?;
    writeln!(
        stdout(),
        "{name}: waiting for {SUBJECT} in the group {QUEUE_GROUP}"
    )?;

    // After SIGTERM this goes on until everything is handled that the server had given to us: it
    // gives no message twice, so nobody else would handle it.
    let mut logs = common::until_shutdown(&client, logs);
    let (mut tally, mut skipped) = (Tally::default(), 0);
    while tally.left(args.limit) > 0
        && let Some(log) = logs.next().await
    {
        // Anybody may publish anything on a subject.
        match payload::parse::<LogEntry>(&log.payload) {
            Ok(LogEntry { id, level, message }) => {
                tally.add();
                if !args.quiet {
                    writeln!(stdout(), "{name}: log {id} {level} {message:?}")?;
                }
            }
            Err(error) => {
                skipped += 1;
                let why = common::printable(&error.to_string());
                tracing::warn!("skipped a message that is no log entry: {why}");
            }
        }
    }

    let received = client.statistics().in_messages.load(Ordering::Relaxed);
    let dropped = received - tally.count() - skipped;
    if dropped > 0 && args.limit.is_none() {
        tracing::warn!("{dropped} messages were dropped");
    }
    writeln!(stdout(), "{name}: {}", tally.summary("messages"))?;
    Ok(())
}

/// A name that can be told from others at a glance: one of half a million.
fn pronounceable(random: u64) -> String {
    let alphabets = ["bdfghjklmnprstvz", "aeiou"].into_iter().cycle().take(6);
    let letters = alphabets
        .zip(random.to_le_bytes())
        .filter_map(|(alphabet, byte)| alphabet.chars().nth(usize::from(byte) % alphabet.len()));
    String::from("worker-") + &letters.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_read_aloud() {
        assert_eq!(pronounceable(0), "worker-bababa");
        assert_eq!(pronounceable(u64::MAX), "worker-zazaza");
    }
}
