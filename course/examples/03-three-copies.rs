//! 03 Three copies
//!
//! One worker was too slow, so three copies of it run now. The work has not
//! become less: each copy handles every log entry, and a customer gets each
//! mail three times.
//!
//! Make the copies share the entries, with each other and with all workers
//! of the queue group `log_workers`.

use futures::StreamExt;
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("localhost:4222".into());
    let client = async_nats::connect(url).await?;
    let mut logs = client.subscribe("logs.process").await?;

    while let Some(message) = logs.next().await {
        if let Ok(log) = serde_json::from_slice::<Value>(&message.payload) {
            println!("log {} {}", log["id"], log["message"]);
        }
    }
    Ok(())
}
