//! The stream of orders, which `order-publisher` and `order-consumer` share.

use std::collections::VecDeque;

use anyhow::Result;
use async_nats::Client;
use async_nats::jetstream::stream::{self, StorageType};
use async_nats::jetstream::{self, context::PublishAckFuture};

use crate::roles::durable::Durable;

pub(super) const CREATED: &str = "orders.created";

pub(super) const ORDERS: Durable =
    Durable { stream: "playgrnd_stream", subjects: "orders.>", consumer: "order_processor" };

/// Creates the stream.
pub(super) async fn create(nats: &Client, storage: StorageType) -> Result<()> {
    let config = stream::Config { storage, ..ORDERS.settings() };
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

/// The ids of the orders that the stream holds, in its order.
pub(super) async fn stored(nats: &Client) -> Result<Vec<String>> {
    let id = |order: &serde_json::Value| {
        order["order_id"].as_str().unwrap_or("an order without an id").to_owned()
    };
    Ok(ORDERS.stored(nats).await?.iter().map(id).collect())
}
