//! 16 Denied
//!
//! The nightly job from the first exercise flushes by now. After a change of
//! passwords its user may no longer publish log entries. The job says "sent
//! 30 messages", with exit code 0, and the log is empty again.
//!
//! Let the job notice that nats-server has refused, and end with an error.

use async_nats::ConnectOptions;
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("localhost:4222".into());
    let options = ConnectOptions::new();
    let client = options.connect(url).await?;

    for id in 1..=30 {
        let log = json!({ "id": id, "level": "INFO", "message": "job done" });
        client.publish("logs.process", log.to_string().into()).await?;
    }
    client.flush().await?;

    println!("sent 30 messages");
    Ok(())
}
