//! The first version of `log-worker`: prints log entries from `logs.process`, and shares them with
//! all other workers.
//!
//! ```sh
//! cargo run -p queue-groups --example first-log-worker  # terminal 1, 2 and 3
//! cargo run -p queue-groups --bin log-publisher         # terminal 4
//! ```
//!
//! What it does not survive:
//!
//! - Ctrl-C or SIGTERM: the messages it has received and not printed are lost, 30 of 30 if it was
//!   busy with something else.
//! - One message that is not JSON ends it, and the messages behind it are lost too.
//! - More than 65,536 messages waiting: the client library drops the rest and says nothing.
//!
//! The service, src/bin/log-worker.rs, survives all three.

use std::io::{Write, stdout};

use futures::StreamExt;
use serde_json::Value;

const SUBJECT: &str = "logs.process";
const QUEUE_GROUP: &str = "log_workers";

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("nats://localhost:4222".into());
    let client = async_nats::connect(url).await?;
    let name = format!("worker-{}", std::process::id());

    // All workers that name the group `log_workers` share the messages: nats-server gives each
    // message to one of them.
    let mut logs = client.queue_subscribe(SUBJECT, QUEUE_GROUP.into()).await?;
    client.flush().await?;
    writeln!(stdout(), "{name}: waiting for {SUBJECT}")?;

    while let Some(message) = logs.next().await {
        let log: Value = serde_json::from_slice(&message.payload)?;
        let (id, text) = (&log["id"], &log["message"]);
        let level = log["level"].as_str().unwrap_or("?");
        writeln!(stdout(), "{name}: log {id} {level} {text}")?;
    }
    Ok(())
}
