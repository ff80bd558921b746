//! 04 The obvious way out
//!
//! When a new version is rolled out, each worker gets SIGTERM. This one is
//! well behaved: it unsubscribes, so that nats-server gives the next entries
//! to the other workers, and then it ends. Still, entries are missing after
//! each roll-out, more of them the busier the machine is.
//!
//! Make it handle everything that nats-server had given to it, then end.

use async_nats::Message;
use futures::StreamExt;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("localhost:4222".into());
    let client = async_nats::connect(url).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let group = "log_workers".into();
    let mut logs = client.queue_subscribe("logs.process", group).await?;

    loop {
        let message = tokio::select! {
            message = logs.next() => message,
            _ = terminate.recv() => {
                logs.unsubscribe().await?;
                break;
            }
        };
        let Some(message) = message else { break };
        handle(&message);
    }
    client.flush().await?;
    Ok(())
}

fn handle(message: &Message) {
    if let Ok(log) = serde_json::from_slice::<Value>(&message.payload) {
        println!("log {} {}", log["id"], log["message"]);
    }
}
