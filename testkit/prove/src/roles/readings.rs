//! Readings and the stream that keeps them, which `sensor` and `recorder` share.

use anyhow::Result;
use async_nats::Client;
use async_nats::jetstream;

use crate::roles::durable::Durable;

pub(super) const SUBJECT: &str = "device.temp";

pub(super) const READINGS: Durable =
    Durable { stream: "readings", subjects: SUBJECT, consumer: "recorder" };

/// Creates the stream of the readings.
pub(super) async fn create(nats: &Client) -> Result<()> {
    jetstream::new(nats.clone()).create_stream(READINGS.settings()).await?;
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
