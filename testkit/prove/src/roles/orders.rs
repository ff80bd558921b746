//! The stream of orders, which `order-publisher` and `order-consumer` share.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::Client;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{self, StorageType};
use async_nats::jetstream::{self, context::PublishAckFuture};
use futures::StreamExt;
use serde_json::Value;
use testkit::Server;

pub(super) const STREAM: &str = "playgrnd_stream";
pub(super) const CREATED: &str = "orders.created";
pub(super) const DURABLE: &str = "order_processor";

/// Creates the stream.
pub(super) async fn create(nats: &Client, storage: StorageType) -> Result<()> {
    let config = stream::Config {
        name: STREAM.into(),
        subjects: vec!["orders.>".into()],
        storage,
        ..Default::default()
    };
    jetstream::new(nats.clone()).create_stream(config).await?;
    Ok(())
}

/// The id of the order of this number.
pub(super) fn id(number: u64) -> String {
    format!("prove-{number:08}")
}

/// Stores orders, and waits for all acknowledgements.
pub(super) async fn store(nats: &Client, numbers: impl Iterator<Item = u64>) -> Result<()> {
    const IN_FLIGHT: usize = 256;
    let jetstream = jetstream::new(nats.clone());
    let mut acks: VecDeque<PublishAckFuture> = VecDeque::new();
    for number in numbers {
        let order = format!(
            r#"{{"order_id":"{}","item":"keyboard","quantity":2,"unit_price_cents":4999}}"#,
            id(number)
        );
        if acks.len() == IN_FLIGHT
            && let Some(ack) = acks.pop_front()
        {
            ack.await?;
        }
        acks.push_back(jetstream.publish(CREATED, order.into()).await?);
    }
    for ack in acks {
        ack.await?;
    }
    Ok(())
}

/// What monitoring says of the stream; null if there is none.
pub(super) fn stream_info(server: &Server) -> Result<Value> {
    let jsz = server.monitor("/jsz?consumers=1&config=1")?;
    let streams = jsz["account_details"][0]["stream_detail"].as_array();
    let orders = streams.into_iter().flatten().find(|stream| stream["name"] == STREAM);
    Ok(orders.cloned().unwrap_or_default())
}

/// What monitoring says of the consumer; null if there is none.
pub(super) fn consumer_info(server: &Server) -> Result<Value> {
    let stream = stream_info(server)?;
    let consumers = stream["consumer_detail"].as_array();
    let durable = consumers.into_iter().flatten().find(|consumer| consumer["name"] == DURABLE);
    Ok(durable.cloned().unwrap_or_default())
}

/// A number in what monitoring says.
pub(super) fn number(info: &Value, pointer: &str) -> u64 {
    info.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// The ids of the orders that the stream holds, in its order.
pub(super) async fn stored(nats: &Client) -> Result<Vec<String>> {
    let jetstream = jetstream::new(nats.clone());
    let stream = jetstream.get_stream(STREAM).await?;
    let count = usize::try_from(stream.cached_info().state.messages)?;
    let config = pull::Config { ack_policy: AckPolicy::None, ..Default::default() };
    let mut messages = stream.create_consumer(config).await?.messages().await?.take(count);
    let mut ids = Vec::with_capacity(count);
    while let Some(message) = tokio::time::timeout(Duration::from_secs(20), messages.next())
        .await
        .context("no message")?
    {
        let order: Value = serde_json::from_slice(&message?.payload).unwrap_or_default();
        ids.push(order["order_id"].as_str().unwrap_or("an order without an id").to_owned());
    }
    Ok(ids)
}
