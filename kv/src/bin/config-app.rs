//! Follows the switch `site_maintenance`: prints its value, then every change.
//!
//! ```sh
//! cargo run -p kv --bin config-app                # terminal 1, and as many more as you like
//! cargo run -p kv --bin config-admin              # terminal 2: on, off, on, off …
//! cargo run -p kv --bin config-admin -- set true  # … or as you say
//! ```

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use common::{CancellationToken, Output, Tally};
use kv::{BUCKET, Change, KEY, State};

/// Prints the value of `site_maintenance`, then every change.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    /// Stop after this many values, the first included; what is neither true nor false does not count
    #[arg(long)]
    limit: Option<u64>,
    /// Print no line for each value
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    common::run(follow_switch)
}

async fn follow_switch(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("config-app", &stop).await?;
    let mut changes = kv::follow(&nats, BUCKET, KEY);
    let mut out = Output::new();
    let (mut tally, mut state) = (Tally::default(), State::Off);
    while tally.left(args.limit) > 0 {
        let change = changes.next().await;
        let change = change.with_context(|| format!("cannot watch on {}", nats.servers()))?;
        match change {
            Some(Change::Entry(entry)) => {
                state = State::of(&entry);
                let revision = entry.revision;
                if !args.quiet {
                    out.line(format!("#{revision} {KEY} is {state}")).await?;
                }
                if let Some(problem) = state.problem() {
                    tracing::warn!("#{revision} {KEY} {problem}: it is off");
                }
                if !matches!(state, State::Invalid(_)) {
                    tally.add();
                }
            }
            Some(Change::NoBucket) => {
                out.line(format!("waiting for the bucket {BUCKET}: {KEY} is off")).await?;
            }
            Some(Change::NoValue) => {
                state = State::Off;
                out.line(format!("watching, no value yet: {KEY} is off")).await?;
            }
            None => break, // told to stop
        }
    }
    if args.limit.is_some() {
        out.line(format!("{}, {KEY} is {state}", tally.summary("values"))).await?;
    }
    out.flush().await
}
