//! Turns the switch `site_maintenance`, which every `config-app` follows.
//!
//! ```sh
//! cargo run -p kv --bin config-app                # terminal 1
//! cargo run -p kv --bin config-admin              # terminal 2: on and off again, five times
//! cargo run -p kv --bin config-admin -- set true  # on
//! cargo run -p kv --bin config-admin -- history   # who changed what, and when
//! ```

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::jetstream::kv::Config;
use async_nats::jetstream::stream::StorageType;
use clap::{ArgAction, Parser, Subcommand};
use common::{CancellationToken, Connection, Output};
use kv::{BUCKET, Bucket, KEY, State, on_or_off};
use tokio::time::sleep;

/// How long to repeat a call that nats-server does not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The same after Ctrl-C. A write is not interrupted: the program would not know if it is stored.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Turns `site_maintenance` on and off again.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    #[command(subcommand)]
    action: Option<Action>,
    /// How many times to turn it over and back
    #[arg(long, default_value_t = 5)]
    cycles: u64,
    /// How long to leave it each way
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Print no line for each change
    #[arg(long)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Turn it on or off, whatever it was
    Set {
        #[arg(action = ArgAction::Set, value_name = "true|false")]
        value: bool,
    },
    /// Print the changes that the bucket still has, oldest first
    History,
}

fn main() -> ExitCode {
    common::run(administer)
}

async fn administer(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("config-admin", &stop).await?;
    nats.give_up_if_refused();
    let config = Config {
        bucket: BUCKET.into(),
        storage: StorageType::File, // in memory the switch would be gone with nats-server
        history: 64,                // the most there is: an app that lags behind skips no change
        ..Config::default()
    };
    let bucket = Bucket::new(&nats, config, ANSWER_TIMEOUT, STOP_TIMEOUT);
    let mut out = Output::new();
    let done = match args.action {
        Some(Action::Set { value }) => set(&bucket, value, &mut out).await,
        Some(Action::History) => print_history(&nats, &mut out).await,
        None => cycle(&bucket, &args, &stop, &mut out).await,
    };
    let flushed = out.flush().await;
    done.with_context(|| format!("cannot use the bucket on {}", nats.servers()))?;
    flushed?;
    // What nats-server has refused also stops the program, perhaps between two cycles.
    nats.permitted()
}

/// Turns the switch over and back, again and again. A run leaves the switch as it found it, also if
/// it is told to stop.
async fn cycle(
    bucket: &Bucket,
    args: &Args,
    stop: &CancellationToken,
    out: &mut Output,
) -> Result<()> {
    let mut print = async |revision: u64, on: bool| {
        if !args.quiet {
            // If the reader of a pipe has gone, `stop` is cancelled: the switch is turned back first.
            let _ = out.line(format!("#{revision} {KEY} is {}", on_or_off(on))).await;
        }
    };
    let started = Instant::now();
    let (mut cycles, mut last) = (0, started);
    while cycles < args.cycles && !stop.is_cancelled() {
        let (revision, over) = toggle(bucket).await?;
        print(revision, over).await;
        stop.run_until_cancelled(sleep(args.interval)).await;

        let turned = toggle(bucket).await;
        let (revision, back) =
            turned.with_context(|| format!("{KEY} was left {}", on_or_off(over)))?;
        (cycles, last) = (cycles + 1, Instant::now());
        print(revision, back).await;
        if cycles < args.cycles {
            stop.run_until_cancelled(sleep(args.interval)).await;
        }
    }
    out.line(common::summary(cycles, "cycles", last - started)).await
}

/// Turns the switch to what it is not: reads it, then writes. Another program may write in between.
/// If both read "off" and write "on", the switch is turned once, not twice, and neither program
/// notices. So the write names the revision that was read, and nats-server refuses the write if
/// there is a newer one.
async fn toggle(bucket: &Bucket) -> Result<(u64, bool)> {
    loop {
        let entry = bucket.entry(KEY).await?;
        // Revision 0 stands for no entry.
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let on = !entry.is_some_and(|entry| State::of(&entry) == State::On);
        match bucket.update(KEY, on.to_string(), revision).await {
            Err(error) if kv::is_wrong_revision(error.as_ref()) => {
                tracing::warn!("another program wrote after #{revision}: reading again");
            }
            updated => return Ok((updated?, on)),
        }
    }
}

/// Turns the switch on or off, whatever it was. The last program to do so is right, so the write
/// names no revision.
async fn set(bucket: &Bucket, on: bool, out: &mut Output) -> Result<()> {
    let revision = bucket.put(KEY, on.to_string()).await?;
    out.line(format!("#{revision} {KEY} is {}", on_or_off(on))).await
}

async fn print_history(nats: &Connection, out: &mut Output) -> Result<()> {
    for line in kv::history(nats).await? {
        out.line(line).await?;
    }
    Ok(())
}
