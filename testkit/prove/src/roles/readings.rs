//! Readings and the stream that keeps them, which `sensor` and `recorder` share.

use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::Client;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, stream};
use futures::StreamExt;
use serde_json::Value;
use testkit::Server;

pub(super) const STREAM: &str = "readings";
pub(super) const SUBJECT: &str = "device.temp";
pub(super) const DURABLE: &str = "recorder";

/// Creates the stream of the readings, on disk.
pub(super) async fn create(nats: &Client) -> Result<()> {
    let config = stream::Config {
        name: STREAM.into(),
        subjects: vec![SUBJECT.into()],
        ..Default::default()
    };
    jetstream::new(nats.clone()).create_stream(config).await?;
    Ok(())
}

/// The id of the sensor of this number. Each one sends one reading, so that its id names it.
pub(super) fn id(number: u64) -> String {
    format!("prove-{number:08}")
}

pub(super) fn reading(sensor_id: &str, seq: u64, timestamp_ms: u64) -> String {
    format!(
        r#"{{"sensor_id":"{sensor_id}","seq":{seq},"celsius":21.5,"timestamp_ms":{timestamp_ms}}}"#
    )
}

/// Stores a reading of each of these sensors.
pub(super) async fn store(nats: &Client, numbers: impl Iterator<Item = u64>) -> Result<()> {
    let jetstream = jetstream::new(nats.clone());
    for number in numbers {
        let reading = reading(&id(number), 1, 1_790_000_000_000);
        jetstream.publish(SUBJECT, reading.into()).await?.await?;
    }
    Ok(())
}

/// The readings that the stream holds, in its order.
pub(super) async fn stored(nats: &Client) -> Result<Vec<Value>> {
    let stream = jetstream::new(nats.clone()).get_stream(STREAM).await?;
    let count = usize::try_from(stream.cached_info().state.messages)?;
    let config = pull::Config { ack_policy: AckPolicy::None, ..Default::default() };
    let mut messages = stream.create_consumer(config).await?.messages().await?.take(count);
    let mut readings = Vec::with_capacity(count);
    while let Some(message) = tokio::time::timeout(Duration::from_secs(20), messages.next())
        .await
        .context("no message")?
    {
        readings.push(serde_json::from_slice(&message?.payload).unwrap_or_default());
    }
    Ok(readings)
}

/// What monitoring says of the stream; null if there is none.
pub(super) fn stream_info(server: &Server) -> Result<Value> {
    let jsz = server.monitor("/jsz?consumers=1&config=1")?;
    let streams = jsz["account_details"][0]["stream_detail"].as_array();
    let readings = streams.into_iter().flatten().find(|stream| stream["name"] == STREAM);
    Ok(readings.cloned().unwrap_or_default())
}

/// What monitoring says of the recorder's consumer; null if there is none.
pub(super) fn consumer_info(server: &Server) -> Result<Value> {
    let stream = stream_info(server)?;
    let consumers = stream["consumer_detail"].as_array();
    let durable = consumers.into_iter().flatten().find(|consumer| consumer["name"] == DURABLE);
    Ok(durable.cloned().unwrap_or_default())
}
