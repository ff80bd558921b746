//! The first version of `log-publisher`: publishes thirty log entries on `logs.process`.
//!
//! ```sh
//! cargo run -p queue-groups --example first-log-worker     # terminal 1, 2 and 3
//! cargo run -p queue-groups --example first-log-publisher  # terminal 4
//! ```
//!
//! What it does not survive: a connection that breaks. `publish` and `flush` succeed although
//! nats-server never gets the messages: in a test it says `sent 30 messages` and 0 have arrived.
//! The service, src/bin/log-publisher.rs, waits for nats-server's answer before it says so.

use std::io::{Write, stdout};

use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("nats://localhost:4222".into());
    let client = async_nats::connect(url).await?;

    for id in 1..=30 {
        let log = json!({ "id": id, "level": "INFO", "message": "user logged in" });
        client.publish("logs.process", log.to_string().into()).await?;
    }
    // `publish` only puts a message into the client's buffer. `flush` writes the buffer to the
    // network: without it, a program that ends now would lose the last messages.
    client.flush().await?;

    writeln!(stdout(), "sent 30 messages")?;
    Ok(())
}
