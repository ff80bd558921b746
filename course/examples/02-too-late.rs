//! 02 Too late
//!
//! A program publishes a greeting, and prints it when it comes back. It is
//! connected, nats-server has got the greeting, and the program waits and
//! waits.
//!
//! Make it hear its own message.

use futures::StreamExt;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("localhost:4222".into());
    let client = async_nats::connect(url).await?;

    client.publish("hello", "Hello World!".into()).await?;
    let mut messages = client.subscribe("hello").await?;

    if let Some(message) = messages.next().await {
        println!("{}", String::from_utf8_lossy(&message.payload));
    }
    Ok(())
}
