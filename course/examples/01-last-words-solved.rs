//! 01 Last words
//!
//! A nightly job publishes thirty log entries and ends. No call returns an
//! error, and the job says "sent 30 messages". In the morning the log is
//! empty: not one entry has arrived.
//!
//! Make sure that all entries have left the program when it ends.

use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("localhost:4222".into());
    let client = async_nats::connect(url).await?;

    for id in 1..=30 {
        let log = json!({ "id": id, "level": "INFO", "message": "job done" });
        client.publish("logs.process", log.to_string().into()).await?;
    }

    // `publish` only fills a buffer. This waits until it is written.
    client.flush().await?;

    println!("sent 30 messages");
    Ok(())
}
