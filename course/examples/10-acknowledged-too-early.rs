//! 10 Acknowledged too early
//!
//! A consumer takes orders from a stream. The stream keeps an order until it
//! is acknowledged, so none can be lost, even if the consumer is killed.
//! That was the idea. After each kill -9, one order is missing.
//!
//! Find out in which moment a kill loses an order, and close the gap.

use std::time::Duration;

use async_nats::jetstream::{self, consumer::pull};
use futures::StreamExt;
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("localhost:4222".into());
    let jetstream = jetstream::new(async_nats::connect(url).await?);
    let stream = jetstream.get_stream("playgrnd_stream").await?;
    let config = pull::Config {
        durable_name: Some("order_processor".into()),
        ack_wait: Duration::from_secs(2),
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await?;

    let mut messages = consumer.messages().await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        message.ack().await?;
        let order: Value = serde_json::from_slice(&message.payload)?;
        println!("{} shipped", order["order_id"]);
    }
    Ok(())
}
