//! Publishes log entries on `logs.process` as fast as it can. A group of workers shares them.
//!
//! ```sh
//! cargo run -p queue-groups --bin log-worker     # terminal 1, 2 and 3: start these first
//! cargo run -p queue-groups --bin log-publisher  # terminal 4
//! ```

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Error, Result};
use bytes::{BufMut, BytesMut};
use clap::Parser;
use common::payload::{Level, LogEntry};
use common::{CancellationToken, Output};

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
    /// Accepted as in the other programs: nothing but the last line is printed anyway
    #[arg(long = "quiet")]
    _quiet: bool,
}

fn main() -> ExitCode {
    common::run(publish_logs)
}

async fn publish_logs(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("log-publisher", &stop).await?;
    nats.give_up_if_refused();
    let started = Instant::now();
    let mut published = 0;

    // `publish` puts a message into the client's buffer, and waits only while the buffer is full.
    let publishing = async {
        // One buffer for many messages, for speed only: `serde_json::to_vec` does as well.
        let mut buffer = BytesMut::with_capacity(64 * 1024);
        while published < args.count {
            serde_json::to_writer((&mut buffer).writer(), &log_entry(published + 1))?;
            nats.publish(SUBJECT, buffer.split().freeze()).await?;
            published += 1;
        }
        // While nats-server is away, `flush` waits for its return.
        nats.flush().await?;
        Ok::<_, Error>(())
    };
    tokio::select! {
        done = publishing => done?,
        () = stop.cancelled() => {}
    }

    // `flush` says that the messages were sent. Only an answer from nats-server says that they have
    // arrived: `close` waits for one, and fails if none comes.
    nats.close().await?;
    if nats.statistics().connects.load(Ordering::Relaxed) > 1 {
        tracing::warn!("the connection was lost once: messages in flight then may be gone");
    }
    let mut out = Output::new();
    let summary = common::summary(published, "messages", started.elapsed());
    out.line(summary).await?;
    out.flush().await
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
    let message = message.into();
    LogEntry { id, level, message }
}
