//! Connect, subscribe, publish, get your own message back, close: all of NATS in one screen.
//!
//! ```sh
//! cargo run -p hello                           # a server on this machine
//! cargo run -p hello -- --server demo.nats.io  # one that NATS runs for everybody to try
//! ```

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use futures::StreamExt;
use tokio::time::timeout;

const SUBJECT: &str = "hello";
const GREETING: &str = "Hello World!";
const PATIENCE: Duration = Duration::from_secs(4);

/// Publishes a message on the subject `hello` and prints it when it comes back.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
}

fn main() -> ExitCode {
    common::run(greet(common::parse()))
}

async fn greet(args: Args) -> Result<()> {
    let client = args.nats.connect("hello").await?;

    // Interest comes first. The server keeps nothing: what is published while nobody subscribes
    // is gone. One connection's lines arrive in order, so the server knows of this subscription
    // before it sees the message below.
    let mut messages = client.subscribe(SUBJECT).await?;

    // Nobody is addressed. Everyone who subscribes to `hello` gets a copy, and we are one of them.
    client.publish(SUBJECT, GREETING.into()).await?;

    // A subject is open to everyone who may publish on it: on a public server, strangers' messages
    // come as well, and they can be any bytes. Look before you trust.
    let own = async {
        while let Some(message) = messages.next().await {
            if message.payload == GREETING {
                return Some(message);
            }
        }
        None
    };
    let own = timeout(PATIENCE, own).await.ok().flatten();
    let own = own.context("our message did not come back; check the server's health, try again")?;

    writeln!(stdout(), "{}", String::from_utf8_lossy(&own.payload))?;

    // We have what we came for: the server need not send us what strangers say next.
    messages.unsubscribe().await?;

    // A program that just ends can lose what it has published: it may not have left the buffer.
    common::close(&client).await
}
