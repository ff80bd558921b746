//! What the recorder's stream holds.

use anyhow::Result;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures::StreamExt;
use mqtt_bridge::Reading;
use testkit::Server;

/// The readings that the stream `readings` holds, in its order.
pub fn stored(server: &Server) -> Result<Vec<Reading>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await?);
        let stream = jetstream.get_stream("readings").await?;
        let config = pull::Config { ack_policy: AckPolicy::None, ..Default::default() };
        let consumer = stream.create_consumer(config).await?;
        let count = usize::try_from(stream.cached_info().state.messages)?;
        let mut messages = consumer.messages().await?.take(count);
        let mut readings = Vec::with_capacity(count);
        while let Some(message) = messages.next().await {
            readings.push(mqtt_bridge::reading(&message?.payload)?);
        }
        Ok(readings)
    })
}
