//! Receives the readings of MQTT sensors as what they are to NATS: messages on a subject.
//!
//! ```sh
//! cargo run -p mqtt-bridge --bin backend            # terminal 1
//! cargo run -p mqtt-bridge --bin sensor -- --qos 0  # terminal 2
//! ```

use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use common::Tally;
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
    // The server sends what comes, asked or not: a thread has to read on while lines are written.
    common::run_multi_thread(receive(common::parse()))
}

async fn receive(args: Args) -> Result<()> {
    let client = args.nats.connect("backend").await?;

    // To the server an MQTT publish is a NATS publish with another handshake. Whatever its QoS,
    // a plain subscriber gets it at most once: not while it is away, and not when it is so slow
    // that its buffer overflows. `recorder` is the one who misses nothing.
    let messages = client.subscribe(SUBJECT).await?;
    client.flush().await?;
    writeln!(
        stdout(),
        "waiting for readings on {SUBJECT}, each at most once"
    )?;

    // After SIGTERM this goes on until everything is shown that the server had given to us.
    let mut messages = common::until_shutdown(&client, messages);
    let mut tally = Tally::default();
    while tally.left(args.limit) > 0
        && let Some(message) = messages.next().await
    {
        match mqtt_bridge::reading(&message.payload) {
            Ok(reading) => {
                tally.add();
                if !args.quiet {
                    writeln!(stdout(), "{}", mqtt_bridge::line(&reading))?;
                }
            }
            Err(error) => {
                let why = common::printable(&format!("{error:#}"));
                tracing::warn!("no reading, ignored: {why}");
            }
        }
    }
    if args.limit.is_some() {
        writeln!(stdout(), "{}", tally.summary("readings"))?;
    }
    Ok(())
}
