//! A device's session with its MQTT broker, across connections: what is not acknowledged is sent again.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use common::{CancellationToken, Stopped};
use rumqttc::{
    ConnectionError, Disconnect, MqttOptions, Packet, Publish, QoS, Request, Subscribe,
    SubscribeReasonCode, Transport,
};
use tokio::time::{Instant, sleep_until};

use crate::broker::explain;
use crate::outbox::Outbox;
use crate::reconnect::Reconnect;
use crate::rumqttc_internals::Connection;
use crate::{Reading, TOPIC};

/// What a session tells its program.
#[derive(Debug)]
pub enum Event {
    /// There is a connection again, and room for readings.
    Connected,
    /// With QoS 1, the broker has acknowledged these readings for the first time, and there is room
    /// for others. With QoS 0, they were sent, which proves nothing.
    Sent(Vec<Reading>),
    /// A command has come.
    SetInterval(Duration),
}

/// A session with an MQTT broker. It reconnects until it is dropped, and says on stderr that it lost
/// and regained the connection, once each.
pub struct Session {
    connection: Connection,
    url: String,
    presence: Publish,
    commands: String,
    reconnect: Reconnect,
    /// When to connect again.
    retry_at: Instant,
    was_connected: bool,
    was_refused: bool,
    /// The broker has handled what is sent first on each connection.
    is_ready: bool,
    outbox: Outbox,
    events: VecDeque<Event>,
}

impl Session {
    /// Connects, and waits until the broker has handled this, which the session repeats on each
    /// connection: it publishes `presence`, as the last will may have said something else, and
    /// subscribes to `commands`, as the broker may have forgotten the session.
    ///
    /// A reading of QoS 1 is kept for `keep_acknowledged` after its acknowledgement, to be sent again
    /// if the connection breaks: see `src/outbox.rs`.
    ///
    /// # Errors
    ///
    /// If there is no connection, or the broker denies the subscription. [`Stopped`] if the program is
    /// told to stop meanwhile.
    pub async fn connect(
        options: MqttOptions,
        presence: Publish,
        commands: String,
        keep_acknowledged: Duration,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let (host, port) = options.broker_address();
        let scheme =
            if matches!(options.transport(), Transport::Tls(_)) { "mqtts" } else { "mqtt" };
        let outbox = Outbox::new(options.inflight().into(), keep_acknowledged);
        let mut session = Self {
            connection: Connection::new(options),
            url: format!("{scheme}://{host}:{port}"),
            presence,
            commands,
            reconnect: Reconnect::default(),
            retry_at: Instant::now(),
            was_connected: false,
            was_refused: false,
            is_ready: false,
            outbox,
            events: VecDeque::new(),
        };
        while !session.is_ready {
            stop.run_until_cancelled(session.poll()).await.ok_or(Stopped)??;
        }
        Ok(session)
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    ///
    /// If the broker denies the subscription on a new connection, or it ends one connection after the
    /// other right after the start.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            self.poll().await?;
        }
    }

    /// How many readings can be published now. None without a connection: a thermometer has no use
    /// for readings that wait.
    #[must_use]
    pub fn room(&self) -> usize {
        if self.is_ready { self.outbox.room() } else { 0 }
    }

    /// Whether all readings of QoS 1 are acknowledged, and all events are taken.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.outbox.is_empty() && self.events.is_empty()
    }

    /// How many readings of QoS 1 were never acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.outbox.unacknowledged()
    }

    /// Publishes readings, many of them with one system call. Those of QoS 1 are sent again on each
    /// new connection until the broker has acknowledged them.
    ///
    /// # Errors
    ///
    /// If the library takes a packet for invalid.
    pub async fn publish(&mut self, qos: QoS, readings: Vec<Reading>) -> Result<()> {
        if qos == QoS::AtMostOnce {
            self.connection.write(requests(qos, &readings)?).await?;
            self.events.push_back(Event::Sent(readings));
            return Ok(());
        }
        self.outbox.extend(readings);
        self.send_outbox().await
    }

    async fn send_outbox(&mut self) -> Result<()> {
        let requests = requests(QoS::AtLeastOnce, self.outbox.send())?;
        self.connection.write(requests).await
    }

    /// Publishes `last` and says goodbye, so that the broker does not publish the last will. Returns
    /// when the broker has handled that; false without a connection.
    ///
    /// # Errors
    ///
    /// Those of [`publish`](Session::publish).
    pub async fn disconnect(mut self, last: Publish) -> Result<bool> {
        let requests = [last.into(), Request::Disconnect(Disconnect)];
        self.connection.write(requests).await?;
        if !self.connection.is_connected() {
            return Ok(false);
        }
        // The broker closes the connection.
        while self.connection.poll().await.is_ok() {}
        Ok(true)
    }

    /// Handles the next packet.
    async fn poll(&mut self) -> Result<()> {
        if !self.reconnect.is_connected() {
            sleep_until(self.retry_at).await;
        }
        let packet = match self.connection.poll().await {
            Ok(packet) => packet,
            Err(error) => return self.failed(&error),
        };
        match packet {
            Packet::ConnAck(_) => {
                self.connected();
                let subscribe = Subscribe::new(&self.commands, QoS::AtLeastOnce);
                let requests = [self.presence.clone().into(), subscribe.into()];
                self.connection.write(requests).await?;
            }
            Packet::SubAck(answer) => {
                ensure!(
                    !answer.return_codes.contains(&SubscribeReasonCode::Failure),
                    "{} denied the subscription to {}; connect as a user that may, with --user",
                    self.url,
                    self.commands
                );
                self.is_ready = true;
                self.outbox.reconnected();
                self.events.push_back(Event::Connected);
                self.send_outbox().await?;
            }
            Packet::PubAck(_) => {
                // The oldest one: a broker acknowledges in order.
                let reading = self.outbox.acknowledge(Instant::now().into());
                let sent = reading.cloned().into_iter().collect();
                self.events.push_back(Event::Sent(sent));
                self.send_outbox().await?;
            }
            Packet::Publish(command) => match crate::command(&command.payload) {
                Ok(interval) => self.events.push_back(Event::SetInterval(interval)),
                Err(error) => tracing::warn!("not a command, ignored: {error:#}"),
            },
            _ => {}
        }
        Ok(())
    }

    fn connected(&mut self) {
        if self.was_connected {
            tracing::info!("connected to {} again", self.url);
        }
        (self.was_connected, self.was_refused) = (true, false);
        self.reconnect.connected(Instant::now().into());
    }

    fn failed(&mut self, error: &ConnectionError) -> Result<()> {
        let url = &self.url;
        if !self.was_connected {
            bail!("cannot connect to {url}: {}", explain(error));
        }
        let is_loss = self.reconnect.is_connected();
        let now = Instant::now();
        let pause = self.reconnect.failed(error, now.into());
        self.retry_at = now + pause.with_context(|| url.clone())?;
        self.is_ready = false;
        if is_loss {
            tracing::warn!("lost the connection to {url}, reconnecting");
        } else if matches!(error, ConnectionError::ConnectionRefused(_)) && !self.was_refused {
            // The session tries on: the broker's passwords may be changing just now.
            self.was_refused = true;
            tracing::warn!("{url}: {}", explain(error));
        } else {
            tracing::debug!("{error}");
        }
        Ok(())
    }
}

/// A message that the broker keeps, and gives to each client that subscribes later.
#[must_use]
pub fn retained(topic: &str, payload: &str) -> Publish {
    let mut publish = Publish::new(topic, QoS::AtMostOnce, payload);
    publish.retain = true;
    publish
}

fn requests<'a>(qos: QoS, readings: impl IntoIterator<Item = &'a Reading>) -> Result<Vec<Request>> {
    let publish = |reading| {
        let payload = serde_json::to_vec(reading)?;
        Ok(Publish::new(TOPIC, qos, payload).into())
    };
    readings.into_iter().map(publish).collect()
}
