//! Receives the readings of MQTT sensors as what they are to NATS: messages on a subject.
//!
//! ```sh
//! cargo run -p mqtt-bridge --bin backend            # terminal 1
//! cargo run -p mqtt-bridge --bin sensor -- --qos 0  # terminal 2
//! ```

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use futures::StreamExt;
use mqtt_bridge::SUBJECT;

/// Prints the readings that sensors send while it runs.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    /// Stop after this many readings
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Print no line for each reading
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    common::run(backend(Args::parse()))
}

async fn backend(args: Args) -> Result<()> {
    let client = args.nats.connect("backend").await?;

    // To the server an MQTT publish is a NATS publish with another handshake. Whatever its QoS,
    // a plain subscriber gets it at most once: not while it is away, and not when it is so slow
    // that its buffer overflows. `recorder` is the one who misses nothing.
    let mut messages = client.subscribe(SUBJECT).await?;
    client.flush().await?;
    writeln!(
        stdout(),
        "waiting for readings on {SUBJECT}, each at most once"
    )?;

    let (mut count, mut start) = (0, None);
    while args.limit.is_none_or(|limit| count < limit) {
        let message = tokio::select! {
            message = messages.next() => message,
            () = common::shutdown() => None,
        };
        let Some(message) = message else { break };
        match mqtt_bridge::reading(&message.payload) {
            Ok(reading) => {
                start.get_or_insert_with(Instant::now);
                count += 1;
                if !args.quiet {
                    writeln!(stdout(), "{}", mqtt_bridge::line(&reading))?;
                }
            }
            Err(error) => tracing::warn!("no reading, ignored: {error:#}"),
        }
    }
    if args.limit.is_some() {
        let elapsed = start.map_or_else(Default::default, |start| start.elapsed());
        writeln!(stdout(), "{}", common::summary(count, "readings", elapsed))?;
    }
    Ok(())
}
