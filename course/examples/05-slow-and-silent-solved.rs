//! 05 Slow and silent
//!
//! Once a day there is a burst of 200,000 log entries. The worker needs some
//! seconds for them, which is fine. But two thirds of the entries are never
//! handled, and there is no error anywhere: not in the worker, not in the
//! publisher, not in the log of nats-server.
//!
//! Nothing may be lost without a word: give the worker room for the burst,
//! and let it say on stderr if entries were dropped nevertheless.

use async_nats::{ConnectOptions, Event};
use futures::StreamExt;
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("localhost:4222".into());
    let client = ConnectOptions::new()
        // Messages that may wait in the client; it drops the rest.
        .subscription_capacity(1 << 20)
        .event_callback(async |event| {
            if let Event::SlowConsumer(_) = event {
                eprintln!("too slow: log entries were dropped");
            }
        })
        .connect(url)
        .await?;
    let group = "log_workers".into();
    let mut logs = client.queue_subscribe("logs.process", group).await?;

    while let Some(message) = logs.next().await {
        if let Ok(log) = serde_json::from_slice::<Value>(&message.payload) {
            println!("log {} {}", log["id"], log["message"]);
        }
    }
    Ok(())
}
