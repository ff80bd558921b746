//! 11 The poison order
//!
//! Some messages in the stream are no orders: a test left them there. The
//! consumer cannot ship them, so it gives them back, for a version that may
//! understand them. Since then its processor is busy day and night, and
//! nats-server's, too.
//!
//! Tell nats-server that such a message must never come again.

use async_nats::jetstream::{self, AckKind, consumer::pull};
use futures::StreamExt;
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("localhost:4222".into());
    let jetstream = jetstream::new(async_nats::connect(url).await?);
    let stream = jetstream.get_stream("playgrnd_stream").await?;
    let config = pull::Config {
        durable_name: Some("order_processor".into()),
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await?;

    let mut messages = consumer.messages().await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        let order: Value =
            serde_json::from_slice(&message.payload).unwrap_or_default();
        let Some(id) = order["order_id"].as_str() else {
            eprintln!("not an order: {} bytes", message.payload.len());
            message.ack_with(AckKind::Nak(None)).await?;
            continue;
        };
        println!("{id} shipped");
        message.ack().await?;
    }
    Ok(())
}
