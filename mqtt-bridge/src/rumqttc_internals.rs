//! An MQTT connection that writes many packets with one system call. The only file that touches the
//! internals of rumqttc's event loop.
//!
//! The plain way is `AsyncClient::publish` and `EventLoop::poll`, as in `examples/first-sensor.rs`.
//! It puts each packet into a queue, and `poll` takes one from it and flushes it. Two reasons not to
//! do so:
//!
//! - Speed. The plain way publishes about 120,000 readings a second with QoS 0 and 90,000 with
//!   QoS 1, this file 15 times and 1.5 times as many (`cargo xtask bench mqtt-bridge`).
//! - Retransmission. After a reconnect `poll` sends what is unacknowledged, one packet a millisecond,
//!   or drops it, together with the queue, if the broker does not know the session any more. Here
//!   the library sends nothing again by itself: that is the business of the
//!   outbox (`src/outbox.rs`), which loses nothing in either case.
//!
//! The fields `network`, `state` and `pending` of the event loop are public, but rumqttc does not
//! document how they work together. The tests below say what this file needs of them. They hold for
//! rumqttc 0.25.1; if they fail with a newer version, do not use it, or go back to the plain way.

use std::time::Duration;

use anyhow::Result;
use rumqttc::{ConnectionError, Event, EventLoop, MqttOptions, MqttState, Packet, Request};
use tokio::time::timeout;

/// Time for one attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A broker that takes nothing for this time is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to an MQTT broker, made by [`poll`](Connection::poll).
pub struct Connection {
    eventloop: EventLoop,
    /// A write has begun and not come to its end: it took too long, or was cancelled.
    is_broken: bool,
}

impl Connection {
    pub fn new(options: MqttOptions) -> Self {
        let mut eventloop = EventLoop::new(options, 1);
        eventloop
            .network_options
            .set_connection_timeout(CONNECT_TIMEOUT.as_secs())
            .set_tcp_nodelay(true);
        Self { eventloop, is_broken: false }
    }

    /// The next packet from the broker. Connects if there is no connection; the packet is then a
    /// `ConnAck`.
    ///
    /// Cancel safe on a connection. Cancelled without one, it gives up a half-made connection.
    pub async fn poll(&mut self) -> Result<Packet, ConnectionError> {
        loop {
            let event = if self.is_broken {
                Err(ConnectionError::FlushTimeout)
            } else {
                self.eventloop.poll().await
            };
            match event {
                Ok(Event::Incoming(packet)) => return Ok(packet),
                Ok(Event::Outgoing(_)) => {}
                Err(error) => {
                    self.is_broken = false;
                    // The library keeps no packet to send again, and counts packet ids from 1.
                    self.eventloop.clean();
                    self.eventloop.pending.clear();
                    let inflight = self.eventloop.mqtt_options.inflight();
                    self.eventloop.state = MqttState::new(inflight, false);
                    return Err(error);
                }
            }
        }
    }

    /// Writes packets. Without a connection it does nothing. If the connection is lost meanwhile, the
    /// packets are lost, and [`poll`](Connection::poll) reports it. If the write is cancelled, the
    /// connection is given up.
    ///
    /// # Errors
    ///
    /// If the library takes a packet for invalid.
    pub async fn write(&mut self, requests: impl IntoIterator<Item = Request>) -> Result<()> {
        let EventLoop { state, network, .. } = &mut self.eventloop;
        let Some(network) = network.as_mut().filter(|_| !self.is_broken) else {
            return Ok(());
        };
        self.is_broken = true;
        let mut packets = Vec::new();
        for request in requests {
            packets.extend(state.handle_outgoing_packet(request)?);
        }
        let written = async {
            for packet in packets {
                network.write(packet).await?;
            }
            network.flush().await
        };
        // An error of the connection comes from the next `poll`, too. A connection on which the
        // broker only stops reading has none.
        self.is_broken = timeout(WRITE_TIMEOUT, written).await.is_err();
        Ok(())
    }

    /// Whether there is a connection, as far as is known.
    pub fn is_connected(&self) -> bool {
        self.eventloop.network.is_some() && !self.is_broken
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, ensure};
    use rumqttc::{Disconnect, Publish, QoS};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// "Accepted", with a session that the broker has kept.
    const CONNACK: [u8; 4] = [0x20, 2, 1, 0];

    /// A broker that does only what a test tells it.
    struct Broker(TcpListener);

    impl Broker {
        async fn start() -> Result<(Self, Connection)> {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let mut options = MqttOptions::new("a", "127.0.0.1", listener.local_addr()?.port());
            options.set_clean_session(false).set_inflight(100);
            Ok((Self(listener), Connection::new(options)))
        }

        async fn accept(&self) -> Result<TcpStream> {
            let (mut stream, _) = self.0.accept().await?;
            let connect = read(&mut stream).await?;
            ensure!(connect[0] == 0x10, "not a CONNECT: {connect:?}");
            stream.write_all(&CONNACK).await?;
            Ok(stream)
        }

        /// Lets the connection connect.
        async fn connect(&self, connection: &mut Connection) -> Result<TcpStream> {
            let (stream, packet) = tokio::join!(self.accept(), connection.poll());
            ensure!(matches!(packet?, Packet::ConnAck(_)), "not a ConnAck");
            stream
        }
    }

    /// What one read finds: bytes written with one system call are there together.
    async fn read(stream: &mut TcpStream) -> Result<Vec<u8>> {
        let mut bytes = vec![0; 64 * 1024];
        let length = stream.read(&mut bytes).await?;
        bytes.truncate(length);
        Ok(bytes)
    }

    fn publish(qos: QoS, payload: u8) -> Request {
        Publish::new("t", qos, [payload]).into()
    }

    /// A publish with QoS 1 as it is on the wire.
    fn packet(id: u8, payload: u8) -> [u8; 8] {
        [0x32, 6, 0, 1, b't', 0, id, payload]
    }

    #[tokio::test]
    async fn many_packets_are_one_write_and_their_ids_count_from_1() -> Result<()> {
        let (broker, mut connection) = Broker::start().await?;
        let mut stream = broker.connect(&mut connection).await?;
        connection.write((1..=64).map(|n| publish(QoS::AtLeastOnce, n))).await?;
        let expected: Vec<u8> = (1..=64).flat_map(|n| packet(n, n)).collect();
        assert_eq!(read(&mut stream).await?, expected);

        connection.write([publish(QoS::AtMostOnce, 7), publish(QoS::AtMostOnce, 8)]).await?;
        let expected = [0x30, 4, 0, 1, b't', 7, 0x30, 4, 0, 1, b't', 8];
        assert_eq!(read(&mut stream).await?, expected);
        Ok(())
    }

    #[tokio::test]
    async fn acknowledgements_come_in_order_and_free_their_ids() -> Result<()> {
        let (broker, mut connection) = Broker::start().await?;
        let mut stream = broker.connect(&mut connection).await?;
        for round in 0..3 {
            // 100 packet ids for 150 publishes: they are used again.
            connection.write((0..50).map(|n| publish(QoS::AtLeastOnce, n))).await?;
            let first = round * 50 % 100;
            let expected: Vec<u8> = (0..50).flat_map(|n| packet(first + n + 1, n)).collect();
            assert_eq!(read(&mut stream).await?, expected);
            for n in 0..50 {
                stream.write_all(&[0x40, 2, 0, first + n + 1]).await?;
            }
            for n in 0..50 {
                let packet = connection.poll().await?;
                let Packet::PubAck(puback) = packet else {
                    anyhow::bail!("not a PUBACK: {packet:?}");
                };
                assert_eq!(puback.pkid, u16::from(first + n + 1));
            }
        }
        Ok(())
    }

    #[tokio::test]
    async fn after_a_loss_the_library_sends_nothing_again() -> Result<()> {
        let (broker, mut connection) = Broker::start().await?;
        let mut stream = broker.connect(&mut connection).await?;
        connection.write((1..=3).map(|n| publish(QoS::AtLeastOnce, n))).await?;
        read(&mut stream).await?;
        drop(stream);
        assert!(connection.poll().await.is_err());
        assert!(!connection.is_connected());
        // Without a connection a write does nothing.
        connection.write([publish(QoS::AtLeastOnce, 4)]).await?;

        // The broker knows the session, so rumqttc alone would now send 1, 2 and 3.
        let mut stream = broker.connect(&mut connection).await?;
        assert!(connection.is_connected());
        let polled = timeout(Duration::from_millis(100), connection.poll()).await;
        assert!(polled.is_err(), "{polled:?}");
        connection.write([publish(QoS::AtLeastOnce, 5)]).await?;
        assert_eq!(read(&mut stream).await?, packet(1, 5));
        Ok(())
    }

    #[tokio::test]
    async fn a_broker_that_stops_reading_is_given_up_and_so_is_a_cancelled_write() -> Result<()> {
        let (broker, mut connection) = Broker::start().await?;
        let limits = &mut connection.eventloop.mqtt_options;
        limits.set_max_packet_size(1 << 24, 1 << 24);
        let large: Request = Publish::new("t", QoS::AtMostOnce, vec![0; 1 << 23]).into();
        for wait in [WRITE_TIMEOUT * 10, WRITE_TIMEOUT / 10] {
            let stream = broker.connect(&mut connection).await?;
            // More than any socket buffer holds.
            while connection.is_connected() {
                let _ = timeout(wait, connection.write([large.clone()])).await;
            }
            let error = connection.poll().await.err().context("it goes on")?;
            assert!(matches!(error, ConnectionError::FlushTimeout), "{error}");
            drop(stream);
        }
        broker.connect(&mut connection).await?;
        Ok(())
    }

    #[tokio::test]
    async fn a_goodbye_is_the_last_packet_and_the_broker_closes() -> Result<()> {
        let (broker, mut connection) = Broker::start().await?;
        let mut stream = broker.connect(&mut connection).await?;
        connection.write([publish(QoS::AtMostOnce, 1), Request::Disconnect(Disconnect)]).await?;
        let expected = [0x30, 4, 0, 1, b't', 1, 0xe0, 0];
        assert_eq!(read(&mut stream).await?, expected);
        drop(stream);
        assert!(connection.poll().await.is_err());
        Ok(())
    }
}
