//! Waiting for what announces no event.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rumqttc::{Packet, QoS};
use testkit::Server;

use crate::support::{Mqtt, PATIENCE};

/// Waits until `look` finds something. For what announces no event: a server's log, the end of one of
/// two programs, a retained message.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until the broker gives this retained message to new subscribers. It stores one a moment
/// after it has delivered it.
pub fn wait_for_retained(server: &Server, topic: &str, payload: &str) -> Result<()> {
    let mut watcher = Mqtt::connect(server, "late")?;
    eventually(&format!("{topic} {payload}"), || {
        watcher.client.unsubscribe(topic)?;
        watcher.until(|packet| matches!(packet, Packet::UnsubAck(_)).then_some(()))?;
        watcher.client.subscribe(topic, QoS::AtLeastOnce)?;
        watcher.until(|packet| matches!(packet, Packet::SubAck(_)).then_some(()))?;
        // The broker answers the ping after it has sent what is retained.
        watcher.client.publish("ping", QoS::AtLeastOnce, false, "")?;
        let retained = watcher.until(|packet| match packet {
            Packet::Publish(publish) if publish.retain => Some(Some(publish.payload.clone())),
            Packet::PubAck(_) => Some(None),
            _ => None,
        })?;
        Ok(retained.filter(|found| found == payload).map(|_| ()))
    })
}
