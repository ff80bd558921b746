//! Publishes log entries on `logs.process`, as fast as they go: the work that a group of workers
//! shares.
//!
//! ```sh
//! cargo run -p queue-groups --bin log-worker     # terminal 1, 2 and 3: start these first
//! cargo run -p queue-groups --bin log-publisher  # terminal 4
//! ```

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Error, Result};
use bytes::{BufMut, BytesMut};
use clap::Parser;
use common::payload::{Level, LogEntry};

const SUBJECT: &str = "logs.process";

/// Publishes log entries.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    /// How many messages to send
    #[arg(long, default_value_t = 30)]
    count: u64,
    /// Accepted as elsewhere: nothing but the last line is printed anyway
    #[arg(long = "quiet")]
    _quiet: bool,
}

fn main() -> ExitCode {
    common::run(publish_logs(common::parse()))
}

async fn publish_logs(args: Args) -> Result<()> {
    let client = args.nats.connect("log-publisher").await?;
    let started = Instant::now();
    let mut published = 0;

    // `publish` hands the message to the client, which sends many at a time. It waits when they
    // come faster than they leave: the publisher is never ahead by more than some thousand.
    let publishing = async {
        let mut buffer = BytesMut::with_capacity(64 * 1024);
        while published < args.count {
            serde_json::to_writer((&mut buffer).writer(), &log_entry(published + 1))?;
            client.publish(SUBJECT, buffer.split().freeze()).await?;
            published += 1;
        }
        // While the server is away this waits for its return, and so does `publish` before long.
        client.flush().await?;
        Ok::<_, Error>(())
    };
    tokio::select! {
        done = publishing => done?,
        () = common::shutdown() => {}
    }

    // Sent is not received: only the server's answer to this tells that it has everything.
    common::close(&client).await?;
    // … everything since the connection was made. What was on its way when an earlier one broke is
    // gone, and the client cannot tell how much that was: core NATS delivers at most once.
    if client.statistics().connects.load(Ordering::Relaxed) > 1 {
        tracing::warn!(
            "there was another connection before: what was on its way on it may be gone"
        );
    }
    let summary = common::summary(published, "messages", started.elapsed());
    writeln!(stdout(), "{summary}")?;
    Ok(())
}

/// What a web shop might log.
fn log_entry(id: u64) -> LogEntry<'static> {
    let (level, message) = match id % 10 {
        0 => (Level::Error, "payment failed"),
        3 | 7 => (Level::Warn, "stock is low"),
        5 => (Level::Debug, "cache missed"),
        2 | 8 => (Level::Info, "order placed"),
        _ => (Level::Info, "user logged in"),
    };
    LogEntry {
        id,
        level,
        message: message.into(),
    }
}
