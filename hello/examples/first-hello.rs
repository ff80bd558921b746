//! The first version of `hello`: subscribe, publish, print what comes back.
//!
//! ```sh
//! cargo run -p hello --example first-hello
//! ```
//!
//! What it does not survive: it prints the first message that comes, also if another program has
//! published it; and if nats-server does not let it subscribe, or the message is lost, it waits
//! for ever and does not say why. The service, src/main.rs, survives both.

use std::io::{Write, stdout};

use futures::StreamExt;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("nats://localhost:4222".into());
    let client = async_nats::connect(url).await?;

    // Subscribe first: nats-server keeps no message for a subscriber that comes later.
    let mut messages = client.subscribe("hello").await?;

    client.publish("hello", "Hello World!".into()).await?;

    if let Some(message) = messages.next().await {
        writeln!(stdout(), "{}", String::from_utf8_lossy(&message.payload))?;
    }
    Ok(())
}
