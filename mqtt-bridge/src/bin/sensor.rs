//! A device at the edge: it speaks MQTT and has never heard of NATS.
//!
//! ```sh
//! cargo run -p mqtt-bridge --bin recorder                             # terminal 1
//! cargo run -p mqtt-bridge --bin sensor -- --count 5 --interval 100ms # terminal 2
//! ```

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use mqtt_bridge::{MqttArgs, Outbox, Pace, Reading, Reconnect, TOPIC};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, LastWill, MqttState, Outgoing, Packet, Publish,
    QoS, Request, Subscribe, SubscribeReasonCode,
};
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

/// Readings on their way to the broker that it has not acknowledged yet.
const IN_FLIGHT: u16 = 100;
/// A broker that says nothing for two of these is given up. It gives us up, and publishes the last
/// will, after one and a half.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// One attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// What is left to do once we were told to stop.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);

/// Measures the temperature and sends it by MQTT.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    mqtt: MqttArgs,
    /// Who measures; the MQTT client id too, so no two sensors may share it
    #[arg(long, default_value = "sensor-1", value_parser = mqtt_bridge::sensor_id)]
    id: String,
    /// Stop after this many readings
    #[arg(long)]
    count: Option<u64>,
    /// Pause between two readings, such as 500ms or 1m; 0s: as fast as the broker takes them
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// 0: sent once, and perhaps lost; 1: sent until the broker acknowledges it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,
    /// Print no line for each reading
    #[arg(long)]
    quiet: bool,
}

/// What is known of the connection.
#[derive(Default)]
struct Link {
    /// The broker has heard that we are here, and commands reach us.
    connected: bool,
    /// Readings that the broker has yet to acknowledge.
    outbox: Outbox,
}

fn main() -> ExitCode {
    // All on one thread: a PUBACK must not overtake the note of the reading that it acknowledges.
    common::run(LocalSet::new().run_until(sensor(Args::parse())))
}

async fn sensor(args: Args) -> Result<()> {
    let (mut options, url) = args.mqtt.options(&args.id)?;
    let status = format!("device/status/{}", args.id);
    options
        // The broker keeps our session while we are away: under this client id it knows us again.
        .set_clean_session(false)
        // What the broker publishes when we vanish without a word. Retained: who asks later gets
        // it, too.
        .set_last_will(LastWill::new(&status, "offline", QoS::AtLeastOnce, true))
        .set_keep_alive(KEEP_ALIVE)
        .set_inflight(IN_FLIGHT)
        // The broker bounds what it delivers. A smaller bound here would cut the connection, get
        // the same command again, and so on for ever.
        .set_max_packet_size(usize::MAX, usize::MAX);
    let queue = match args.qos {
        0 => IN_FLIGHT.into(),
        _ => Outbox::capacity(IN_FLIGHT.into()),
    };
    let (client, mut eventloop) = AsyncClient::new(options, queue);
    eventloop
        .network_options
        .set_connection_timeout(CONNECT_TIMEOUT.as_secs())
        .set_tcp_nodelay(true);

    let (interval_sender, interval) = watch::channel(args.interval);
    let link = watch::Sender::new(Link::default());
    let mut broker = Broker {
        url,
        command_topic: format!("device/cmd/{}", args.id),
        status: status.clone(),
        client: client.clone(),
        interval: interval_sender,
        link: link.clone(),
        quiet: args.quiet,
    };
    // A task of its own: a `poll` that is cancelled, in a `select!` for instance, drops what it
    // was about to write.
    let mut broker = tokio::task::spawn_local(async move {
        let ended = broker.talk(&mut eventloop).await;
        // The channels stay open until somebody has read how it ended.
        (ended, broker, eventloop)
    });

    let start = Instant::now();
    let sent = tokio::select! {
        failed = &mut broker => return failed?.0,
        sent = measure(&args, &client, interval, &link) => sent?,
    };

    // Handing a reading to the client library says nothing. The broker's PUBACK does.
    let mut changes = link.subscribe();
    tokio::select! {
        failed = &mut broker => return failed?.0,
        _ = changes.wait_for(|link| link.outbox.is_empty()) => {}
        () = after_shutdown() => {
            let missing = link.borrow().outbox.unacknowledged();
            ensure!(
                missing == 0,
                "stopped before the broker acknowledged {missing} of {sent} readings: they may be lost"
            );
        }
    }

    // The broker forgets the last will of a client that says goodbye, so we say it ourselves. When
    // the broker closes the connection, it has read everything before that.
    let farewell = async {
        let offline = client.publish(&status, QoS::AtMostOnce, true, "offline");
        offline.await?;
        client.disconnect().await?;
        (&mut broker).await?.0
    };
    tokio::select! {
        said = farewell => said?,
        () = after_shutdown() => tracing::warn!("stopped without a farewell: the broker is away"),
        () = async {
            let _ = changes.wait_for(|link| !link.connected).await;
            sleep(FAREWELL_TIMEOUT).await;
        } => tracing::warn!("ended without a farewell: the broker is away"),
    }
    if args.count.is_some() {
        let summary = common::summary(sent, "readings", start.elapsed());
        writeln!(stdout(), "{summary}")?;
    }
    Ok(())
}

async fn after_shutdown() {
    common::shutdown().await;
    sleep(FAREWELL_TIMEOUT).await;
}

/// Takes readings and hands them to the client library; says how many.
async fn measure(
    args: &Args,
    client: &AsyncClient,
    mut interval: watch::Receiver<Duration>,
    link: &watch::Sender<Link>,
) -> Result<u64> {
    let qos = rumqttc::qos(args.qos)?;
    let mut changes = link.subscribe();
    changes.wait_for(|link| link.connected).await?;
    let Args { id, qos: level, .. } = args;
    let pause = humantime::format_duration(args.interval);
    writeln!(
        stdout(),
        "{id} sends to {TOPIC}, QoS {level}, every {pause}"
    )?;

    let mut pace = Pace::new(Instant::now(), args.interval);
    let mut sent = 0;
    while args.count.is_none_or(|count| sent < count) {
        tokio::select! {
            biased;
            () = common::shutdown() => break,
            _ = interval.changed() => {
                let pause = *interval.borrow_and_update();
                pace = Pace::new(Instant::now() + pause, pause);
                let pause = humantime::format_duration(pause);
                writeln!(stdout(), "told to send every {pause}")?;
                continue;
            }
            () = pace.tick() => {}
        }
        // While the broker is away, what is on its way is kept, and nothing is added to it.
        let may_go = |link: &Link| link.connected && link.outbox.len() < IN_FLIGHT.into();
        tokio::select! {
            biased;
            () = common::shutdown() => break,
            ready = changes.wait_for(may_go) => { ready?; }
        }
        let timestamp_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let timestamp_ms = u64::try_from(timestamp_ms)?;
        let reading = Reading {
            sensor_id: args.id.clone(),
            seq: sent + 1,
            celsius: mqtt_bridge::celsius(timestamp_ms),
            timestamp_ms,
        };
        let payload = serde_json::to_vec(&reading)?;
        tokio::select! {
            biased;
            published = client.publish(TOPIC, qos, false, payload) => published?,
            () = common::shutdown() => break,
        }
        sent += 1;
        tracing::debug!("handed over #{sent}");
        if args.qos == 1 {
            link.send_modify(|link| link.outbox.push(reading));
        } else if !args.quiet {
            writeln!(stdout(), "{}", mqtt_bridge::line(&reading))?;
        }
    }
    Ok(sent)
}

/// The other end of the connection.
struct Broker {
    url: String,
    command_topic: String,
    status: String,
    client: AsyncClient,
    interval: watch::Sender<Duration>,
    link: watch::Sender<Link>,
    quiet: bool,
}

impl Broker {
    /// Keeps the connection until the broker has ended it at our request.
    async fn talk(&mut self, eventloop: &mut EventLoop) -> Result<()> {
        let url = self.url.clone();
        let mut reconnect = Reconnect::default();
        let (mut is_first, mut is_leaving, mut is_refused) = (true, false, false);
        let mut kept = Vec::new();
        loop {
            match eventloop.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    if !is_first {
                        tracing::info!("connected to {url} again");
                    }
                    (is_first, is_refused) = (false, false);
                    reconnect.connected(Instant::now().into());
                    // First of all say that we are here: the last will has said the opposite. And
                    // subscribe: a session that the broker has lost has no subscriptions.
                    let mut online = Publish::new(&self.status, QoS::AtMostOnce, "online");
                    online.retain = true;
                    let commands = Subscribe::new(&self.command_topic, QoS::AtLeastOnce);
                    eventloop.pending = [online.into(), commands.into()].into();
                    eventloop.pending.extend(kept.drain(..));
                    for reading in self.link.borrow().outbox.waiting() {
                        let payload = serde_json::to_vec(reading)?;
                        let sent = self
                            .client
                            .try_publish(TOPIC, QoS::AtLeastOnce, false, payload);
                        sent.context("cannot send again")?;
                    }
                }
                Ok(Event::Incoming(Packet::PubAck(_))) => {
                    let mut line = None;
                    self.link.send_modify(|link| {
                        let reading = link.outbox.acknowledge(Instant::now().into());
                        line = reading.filter(|_| !self.quiet).map(mqtt_bridge::line);
                    });
                    if let Some(line) = line {
                        writeln!(stdout(), "{line}")?;
                    }
                }
                Ok(Event::Incoming(Packet::SubAck(answer))) => {
                    ensure!(
                        answer.return_codes != [SubscribeReasonCode::Failure],
                        "{url} denied the subscription to {}; connect as a user that may, with --user",
                        self.command_topic
                    );
                    self.link.send_modify(|link| link.connected = true);
                }
                Ok(Event::Incoming(Packet::Publish(command))) => {
                    match mqtt_bridge::command(&command.payload) {
                        Ok(interval) => drop(self.interval.send_replace(interval)),
                        Err(error) => tracing::warn!("no command, ignored: {error:#}"),
                    }
                }
                Ok(Event::Outgoing(Outgoing::Disconnect)) => is_leaving = true,
                Ok(_) => {}
                Err(_) if is_leaving => return Ok(()),
                Err(error) if is_first => {
                    bail!("cannot connect to {url}: {}", mqtt_bridge::explain(&error));
                }
                Err(error) => {
                    let now = Instant::now().into();
                    if reconnect.is_connected() {
                        tracing::warn!("lost the connection to {url}, reconnecting");
                        self.link.send_modify(|link| {
                            link.connected = false;
                            link.outbox.start_over(now);
                        });
                        // The library would send again what is not acknowledged, but throws it
                        // away where the broker does not know our session any more, which is when
                        // it is needed most. So it has to forget, and the outbox does that.
                        eventloop.state = MqttState::new(IN_FLIGHT, false);
                        let is_other = |request: &Request| !is_reading_of_qos_1(request);
                        kept = eventloop.pending.drain(..).filter(is_other).collect();
                    }
                    let pause = reconnect.failed(&error, now).with_context(|| url.clone())?;
                    // It may be let in again: somebody is changing the passwords, perhaps.
                    match error {
                        ConnectionError::ConnectionRefused(_) if !is_refused => {
                            is_refused = true;
                            tracing::warn!("{url}: {}", mqtt_bridge::explain(&error));
                        }
                        error => tracing::debug!("{error}"),
                    }
                    sleep(pause).await;
                }
            }
        }
    }
}

fn is_reading_of_qos_1(request: &Request) -> bool {
    matches!(request, Request::Publish(publish) if publish.qos == QoS::AtLeastOnce)
}
