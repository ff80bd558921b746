//! The first version of `order-consumer`: takes orders from a stream, prints each, and acknowledges
//! it.
//!
//! ```sh
//! cargo run -p jetstream --example first-order-publisher  # terminal 1
//! cargo run -p jetstream --example first-order-consumer   # terminal 2, now or later
//! ```
//!
//! What it does not survive:
//!
//! - A message that is no order: it ends with an error, and does so each time it is started. The
//!   message is never acknowledged, so it is delivered again.
//! - Its own end. `ack()` puts the acknowledgement into a buffer, which is lost with the process:
//!   orders that were printed come again. And the library fetches 200 orders ahead: those that were
//!   delivered and not printed reach no other consumer before `ack_wait` is over.
//! - A stream that is missing, or that is lost with nats-server's memory.
//!
//! The service, src/bin/order-consumer.rs, survives all of this.

use std::io::{Write, stdout};
use std::time::Duration;

use async_nats::jetstream::{self, consumer::pull};
use futures::StreamExt;
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("nats://localhost:4222".into());
    let jetstream = jetstream::new(async_nats::connect(url).await?);

    let stream = jetstream.get_stream("playgrnd_stream").await?;
    let config = pull::Config {
        durable_name: Some("order_processor".into()),
        ack_wait: Duration::from_secs(5),
        ..Default::default()
    };
    let consumer = stream.get_or_create_consumer("order_processor", config).await?;

    let mut messages = consumer.messages().await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        let order: Value = serde_json::from_slice(&message.payload)?;
        let id = order["order_id"].as_str().ok_or("an order without an id")?;
        let item = order["item"].as_str().ok_or("an order without an item")?;
        writeln!(stdout(), "{id}: {} x {item}", order["quantity"])?;
        message.ack().await?;
    }
    Ok(())
}
