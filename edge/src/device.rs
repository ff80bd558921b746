//! An MQTT device that has connected to the gateway.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::jetstream::message::PublishMessage;
use common::payload::{self, Reading};
use futures::{SinkExt, StreamExt};
use rumqttc::{Codec, ConnAck, ConnectReturnCode, LastWill, Packet, Publish};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::codec::Framed;

/// Time for a device to say who it is.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest packet in bytes.
const MAX_PACKET: usize = 10 * 1024;

/// A device, and its packets.
pub struct Device {
    /// Its packets in both directions.
    pub packets: Framed<TcpStream, Codec>,
    /// Its MQTT client id.
    pub id: String,
    /// It sends something in this time, or it is gone.
    pub patience: Duration,
    /// What is published if it goes without a goodbye.
    pub will: Option<LastWill>,
}

impl Device {
    /// Waits until the device says who it is, and greets it. The gateway keeps no sessions.
    ///
    /// # Errors
    ///
    /// If it says nothing in time, something else, or a name that is no token of a subject.
    pub async fn greet(socket: TcpStream) -> Result<Self> {
        socket.set_nodelay(true)?;
        let codec = Codec { max_incoming_size: MAX_PACKET, max_outgoing_size: MAX_PACKET };
        let mut packets = Framed::new(socket, codec);
        let first =
            timeout(CONNECT_TIMEOUT, packets.next()).await?.context("it said nothing")??;
        let Packet::Connect(connect) = first else { bail!("it began with another packet") };
        let id = connect.client_id;
        let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
        ensure!(!id.is_empty() && id.bytes().all(is_plain), "its id has other characters");
        packets.send(Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false))).await?;
        let patience = match connect.keep_alive {
            0 => Duration::MAX,
            seconds => Duration::from_secs(seconds.into()).mul_f64(1.5),
        };
        Ok(Self { packets, id, patience, will: connect.last_will })
    }
}

/// The message for a reading. A repetition has the same message id, and is stored once.
///
/// # Errors
///
/// If it is not a reading.
pub fn message(publish: &Publish) -> Result<PublishMessage> {
    let reading: Reading = payload::parse(&publish.payload)?;
    let id = format!("{}-{}-{}", reading.sensor_id, reading.seq, reading.timestamp_ms);
    Ok(PublishMessage::build().payload(publish.payload.clone()).message_id(id))
}
