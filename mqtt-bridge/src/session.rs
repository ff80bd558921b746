//! A connection to an MQTT broker that is made again when it is lost.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rumqttc::{
    ConnectionError, Disconnect, Event, EventLoop, MqttOptions, MqttState, Packet, Request,
};
use tokio::time::{Instant, sleep_until, timeout};

use crate::broker::explain;
use crate::reconnect::Reconnect;

/// One attempt to connect, and how long a broker may take to read what is written to it.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The client library's event loop, with two things of its own.
///
/// - It reconnects, and says so: see [`next`](Session::next).
/// - [`send`](Session::send) writes packets past the library's queue. The queue costs a system call
///   for each packet, and a reconnect throws away what is in it where the broker does not know our
///   session any more, which is when it is needed most. Here nothing is sent again unless the
///   program does it.
pub struct Session {
    eventloop: EventLoop,
    url: String,
    reconnect: Reconnect,
    /// When to connect again.
    pause: Instant,
    is_first: bool,
    is_refused: bool,
}

impl Session {
    /// A session that is not connected yet. `url` is the broker's address as it may be shown.
    #[must_use]
    pub fn new(options: MqttOptions, url: String) -> Self {
        let mut eventloop = EventLoop::new(options, 1);
        eventloop
            .network_options
            .set_connection_timeout(TIMEOUT.as_secs())
            .set_tcp_nodelay(true);
        Self {
            eventloop,
            url,
            reconnect: Reconnect::default(),
            pause: Instant::now(),
            is_first: true,
            is_refused: false,
        }
    }

    /// The next packet from the broker, a `ConnAck` for each connection that is made; none when
    /// the connection was lost.
    ///
    /// On a connection it can be cancelled and nothing is lost; cancelled while there is none, it
    /// begins to connect anew.
    ///
    /// # Errors
    ///
    /// Where there is no broker from the start, or one that throws us out again and again.
    pub async fn next(&mut self) -> Result<Option<Packet>> {
        loop {
            let was_connected = self.reconnect.is_connected();
            let event = if was_connected && self.eventloop.network.is_none() {
                Err(ConnectionError::FlushTimeout) // `send` has given it up
            } else {
                if !was_connected {
                    sleep_until(self.pause).await;
                }
                self.eventloop.poll().await
            };
            let error = match event {
                Ok(Event::Incoming(packet)) => {
                    if matches!(packet, Packet::ConnAck(_)) {
                        self.connected();
                    }
                    return Ok(Some(packet));
                }
                Ok(Event::Outgoing(_)) => continue,
                Err(error) => error,
            };
            let url = &self.url;
            if self.is_first {
                bail!("cannot connect to {url}: {}", explain(&error));
            }
            let now = Instant::now();
            let pause = self.reconnect.failed(&error, now.into());
            self.pause = now + pause.with_context(|| url.clone())?;
            if was_connected {
                tracing::warn!("lost the connection to {url}, reconnecting");
                self.eventloop.pending.clear();
                let inflight = self.eventloop.mqtt_options.inflight();
                self.eventloop.state = MqttState::new(inflight, false);
                return Ok(None);
            }
            match error {
                // It may be let in again: somebody is changing the passwords, perhaps.
                ConnectionError::ConnectionRefused(_) if !self.is_refused => {
                    self.is_refused = true;
                    tracing::warn!("{url}: {}", explain(&error));
                }
                error => tracing::debug!("{error}"),
            }
        }
    }

    fn connected(&mut self) {
        if !self.is_first {
            tracing::info!("connected to {} again", self.url);
        }
        (self.is_first, self.is_refused) = (false, false);
        self.reconnect.connected(Instant::now().into());
    }

    /// The broker's address, without user and password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Writes packets, many of them with one system call. Where the connection is lost meanwhile,
    /// [`next`](Session::next) says so, and they are lost as well.
    ///
    /// # Errors
    ///
    /// Where the library takes a packet for invalid.
    pub async fn send(&mut self, requests: impl IntoIterator<Item = Request>) -> Result<()> {
        let EventLoop { state, network, .. } = &mut self.eventloop;
        let Some(network) = network else {
            return Ok(());
        };
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
        // A connection that broke says so when it is read from; one that only stops taking anything
        // never does.
        if timeout(TIMEOUT, written).await.is_err() {
            self.eventloop.clean();
        }
        Ok(())
    }

    /// Says goodbye. The broker then forgets the last will, and closes the connection when it has
    /// read everything before that: false where it did not within `patience`.
    ///
    /// # Errors
    ///
    /// As [`send`](Session::send).
    pub async fn disconnect(mut self, patience: Duration) -> Result<bool> {
        self.send([Request::Disconnect(Disconnect)]).await?;
        if self.eventloop.network.is_none() {
            return Ok(false);
        }
        let closed = async { while self.eventloop.poll().await.is_ok() {} };
        Ok(timeout(patience, closed).await.is_ok())
    }
}
