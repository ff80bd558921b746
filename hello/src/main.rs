//! Subscribes, publishes, prints its own message when it comes back.
//!
//! ```sh
//! cargo run -p hello                           # a server on this machine
//! cargo run -p hello -- --server demo.nats.io  # the public server, run by the NATS project
//! ```

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use common::{CancellationToken, Output, Stopped};
use futures::StreamExt;
use tokio::time::timeout;

const SUBJECT: &str = "hello";
const GREETING: &str = "Hello World!";
/// How long the message may take to come back.
const ROUND_TRIP_TIMEOUT: Duration = Duration::from_secs(3);

/// Publishes a message on the subject `hello` and prints it when it comes back.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
}

fn main() -> ExitCode {
    common::run(greet)
}

async fn greet(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("hello", &stop).await?;
    // From here on this reports a lost connection, and what nats-server denies.
    let disconnected = nats.disconnected();

    // Subscribe first: nats-server keeps no message for a subscriber that comes later.
    let mut messages = nats.subscribe(SUBJECT).await?;
    nats.publish(SUBJECT, GREETING.into()).await?;

    // Any program may publish on this subject, and any bytes: skip what is not ours.
    let own = async {
        while let Some(message) = messages.next().await {
            if message.payload == GREETING {
                return Some(message);
            }
        }
        None
    };
    let own = tokio::select! {
        biased;
        // Both calls above return Ok although nats-server denies them later.
        error = disconnected => return Err(error),
        () = stop.cancelled() => return Err(Stopped.into()),
        own = timeout(ROUND_TRIP_TIMEOUT, own) => own.ok().flatten(),
    };
    let own = own.context("the message did not come back in time; is nats-server overloaded?")?;

    let mut out = Output::new();
    out.line(String::from_utf8_lossy(&own.payload)).await?;
    out.flush().await?;
    nats.close().await
}
