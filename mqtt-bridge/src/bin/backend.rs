//! Receives the readings of MQTT sensors as NATS messages.
//!
//! ```sh
//! cargo run -p mqtt-bridge --bin backend            # terminal 1
//! cargo run -p mqtt-bridge --bin sensor -- --qos 0  # terminal 2
//! ```

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use common::{CancellationToken, Output, Tally};
use futures::StreamExt;
use mqtt_bridge::SUBJECT;

/// Prints the readings that sensors send while it runs.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    /// Stop after this many readings
    #[arg(long)]
    limit: Option<u64>,
    /// Print no line for each reading
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    common::run(receive)
}

async fn receive(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("backend", &stop).await?;

    // Whatever QoS a sensor publishes with, a plain subscriber gets a reading at most once: not while
    // it is away, and not if it is so slow that its buffer overflows. `recorder` misses nothing.
    let readings = nats.subscribe(SUBJECT).await?;
    // From here on nats-server knows of the subscription.
    nats.round_trip().await?;
    let mut out = Output::new();
    out.line(format!("waiting for readings on {SUBJECT}, each at most once")).await?;

    let mut readings = nats.drain_on_stop(readings);
    let mut tally = Tally::default();
    while tally.left(args.limit) > 0
        && let Some(message) = readings.next().await
    {
        match mqtt_bridge::reading(&message.payload) {
            Ok(reading) => {
                tally.add();
                if !args.quiet {
                    out.line(mqtt_bridge::line(&reading)).await?;
                }
            }
            Err(error) => {
                let why = common::printable(&format!("{error:#}"));
                tracing::warn!("not a reading, ignored: {why}");
            }
        }
    }
    if args.limit.is_some() {
        out.line(tally.summary("readings")).await?;
    }
    out.flush().await?;
    nats.permitted()
}
