//! A device at the edge: it speaks MQTT and has never heard of NATS.
//!
//! ```sh
//! cargo run -p mqtt-bridge --bin recorder                             # terminal 1
//! cargo run -p mqtt-bridge --bin sensor -- --count 5 --interval 100ms # terminal 2
//! ```

use std::io::{ErrorKind, Write, stdout};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail, ensure};
use clap::Parser;
use mqtt_bridge::{DeviceCommand, MqttArgs, Reading, TOPIC};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, LastWill, Outgoing, Packet, Publish, QoS,
    Subscribe, SubscribeReasonCode,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep};

/// Readings on their way to the broker that it has not acknowledged yet.
const IN_FLIGHT: u16 = 100;
/// A broker that says nothing for two of these is given up. It gives us up, and publishes the last
/// will, after one and a half.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// One attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pauses between attempts grow from the first to the second of these.
const RETRY: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];
/// So many connections in a row, each ended by the broker within so short a time, are no accident.
const CUT_OFF: (u32, Duration) = (3, Duration::from_secs(3));
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
    /// Readings that the broker has acknowledged.
    acknowledged: u64,
}

fn main() -> ExitCode {
    common::run(sensor(Args::parse()))
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
    let (client, mut eventloop) = AsyncClient::new(options, IN_FLIGHT.into());
    eventloop
        .network_options
        .set_connection_timeout(CONNECT_TIMEOUT.as_secs())
        .set_tcp_nodelay(true);

    let (interval_sender, interval) = watch::channel(args.interval);
    let (link_sender, mut link) = watch::channel(Link::default());
    let (printer, lines) = mpsc::unbounded_channel();
    let mut broker = Broker {
        url,
        command_topic: format!("device/cmd/{}", args.id),
        status: status.clone(),
        interval: interval_sender,
        link: link_sender,
        lines,
    };
    // A task of its own: a `poll` that is cancelled, in a `select!` for instance, drops what it
    // was about to write.
    let mut broker = tokio::spawn(async move {
        let ended = broker.talk(&mut eventloop).await;
        // The channels stay open until somebody has read how it ended.
        (ended, broker, eventloop)
    });

    let start = Instant::now();
    let sent = tokio::select! {
        failed = &mut broker => return failed?.0,
        sent = measure(&args, &client, interval, link.clone(), printer) => sent?,
    };

    // Handing a reading to the client library says nothing. The broker's PUBACK does.
    let mut away = link.clone();
    if args.qos == 1 {
        tokio::select! {
            failed = &mut broker => return failed?.0,
            _ = link.wait_for(|link| link.acknowledged >= sent) => {}
            () = after_shutdown() => {
                let missing = sent - away.borrow().acknowledged;
                bail!("stopped before the broker acknowledged {missing} of {sent} readings: they may be lost");
            }
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
            let _ = away.wait_for(|link| !link.connected).await;
            sleep(FAREWELL_TIMEOUT).await;
        } => tracing::warn!("ended without a farewell: the broker is away"),
    }
    if args.count.is_some() {
        writeln!(
            stdout(),
            "{}",
            common::summary(sent, "readings", start.elapsed())
        )?;
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
    mut link: watch::Receiver<Link>,
    lines: mpsc::UnboundedSender<String>,
) -> Result<u64> {
    let qos = if args.qos == 0 {
        QoS::AtMostOnce
    } else {
        QoS::AtLeastOnce
    };
    link.wait_for(|link| link.connected).await?;
    let pause = humantime::format_duration(args.interval);
    writeln!(
        stdout(),
        "{} sends to {TOPIC}, QoS {}, every {pause}",
        args.id,
        args.qos
    )?;

    let mut ticker = ticker(Instant::now(), args.interval);
    let mut sent = 0;
    while args.count.is_none_or(|count| sent < count) {
        tokio::select! {
            biased;
            () = common::shutdown() => break,
            _ = interval.changed() => {
                let pause = *interval.borrow_and_update();
                ticker = self::ticker(Instant::now() + pause, pause);
                let pause = humantime::format_duration(pause);
                writeln!(stdout(), "told to send every {pause}")?;
                continue;
            }
            () = due(&mut ticker) => {}
        }
        // While the broker is away, what is on its way is kept, and nothing is added to it.
        tokio::select! {
            biased;
            () = common::shutdown() => break,
            connected = link.wait_for(|link| link.connected) => { connected?; }
        }
        let timestamp_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let timestamp_ms = u64::try_from(timestamp_ms)?;
        let reading = Reading {
            sensor_id: args.id.clone(),
            seq: sent + 1,
            celsius: celsius(timestamp_ms),
            timestamp_ms,
        };
        let payload = serde_json::to_vec(&reading)?;
        if args.qos == 1 && !args.quiet {
            lines.send(mqtt_bridge::line(&reading))?;
        }
        tokio::select! {
            biased;
            published = client.publish(TOPIC, qos, false, payload) => published?,
            () = common::shutdown() => break,
        }
        sent += 1;
        tracing::debug!("handed over #{sent}");
        if args.qos == 0 && !args.quiet {
            writeln!(stdout(), "{}", mqtt_bridge::line(&reading))?;
        }
    }
    Ok(sent)
}

fn ticker(first: Instant, pause: Duration) -> Option<Interval> {
    (!pause.is_zero()).then(|| {
        let mut ticker = interval_at(first, pause);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticker
    })
}

async fn due(ticker: &mut Option<Interval>) {
    if let Some(ticker) = ticker {
        ticker.tick().await;
    }
}

/// The other end of the connection.
struct Broker {
    url: String,
    command_topic: String,
    status: String,
    interval: watch::Sender<Duration>,
    link: watch::Sender<Link>,
    /// What to print for each reading that is acknowledged, in order.
    lines: mpsc::UnboundedReceiver<String>,
}

impl Broker {
    /// Keeps the connection until the broker has ended it at our request.
    async fn talk(&mut self, eventloop: &mut EventLoop) -> Result<()> {
        let url = self.url.clone();
        let mut connected: Option<Instant> = None;
        let (mut is_first, mut is_leaving, mut is_refused) = (true, false, false);
        let (mut cut_off, mut attempts) = (0, 0);
        loop {
            // What was not acknowledged goes out again after a reconnect, before anything new.
            // The library throws it away where the broker does not know our session any more,
            // which is when it is needed most: so the library does not get to see it.
            let kept = connected
                .is_none()
                .then(|| std::mem::take(&mut eventloop.pending));
            let event = eventloop.poll().await;
            if let Some(kept) = kept {
                eventloop.pending = kept;
            }
            match event {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    if !is_first {
                        tracing::info!("connected to {url} again");
                    }
                    // First of all say that we are here: the last will has said the opposite. And
                    // subscribe: a session that the broker has lost has no subscriptions.
                    let mut online = Publish::new(&self.status, QoS::AtMostOnce, "online");
                    online.retain = true;
                    let commands = Subscribe::new(&self.command_topic, QoS::AtLeastOnce);
                    eventloop.pending.push_front(commands.into());
                    eventloop.pending.push_front(online.into());
                    (connected, is_first, attempts) = (Some(Instant::now()), false, 0);
                    is_refused = false;
                }
                Ok(Event::Incoming(Packet::PubAck(_))) => {
                    if let Ok(line) = self.lines.try_recv() {
                        writeln!(stdout(), "{line}")?;
                    }
                    self.link.send_modify(|link| link.acknowledged += 1);
                }
                Ok(Event::Incoming(Packet::SubAck(answer))) => {
                    ensure!(
                        answer.return_codes != [SubscribeReasonCode::Failure],
                        "{url} denied the subscription to {}; connect as a user that may, with --user",
                        self.command_topic
                    );
                    self.link.send_modify(|link| link.connected = true);
                }
                Ok(Event::Incoming(Packet::Publish(command))) => match obey(&command.payload) {
                    Ok(interval) => {
                        self.interval.send_replace(interval);
                    }
                    Err(error) => tracing::warn!("no command, ignored: {error:#}"),
                },
                Ok(Event::Outgoing(Outgoing::Disconnect)) => is_leaving = true,
                Ok(_) => {}
                Err(_) if is_leaving => return Ok(()),
                Err(error) if is_first => {
                    bail!("cannot connect to {url}: {}", mqtt_bridge::explain(&error));
                }
                Err(error) => {
                    match connected.take() {
                        Some(since) => {
                            tracing::warn!("lost the connection to {url}, reconnecting");
                            self.link.send_modify(|link| link.connected = false);
                            cut_off = if since.elapsed() < CUT_OFF.1 {
                                cut_off + 1
                            } else {
                                0
                            };
                            ensure!(
                                cut_off < CUT_OFF.0,
                                "{url} ended {cut_off} connections right after they were made: \
                                 does another sensor use the id of this one? give each its own with --id"
                            );
                        }
                        // A broker that was away did not throw us out. (nats-server lets the
                        // losers of such a fight wait for a second, and then hangs up on them.)
                        None if is_away(&error) => cut_off = 0,
                        None => {}
                    }
                    // It may be let in again: somebody is changing the passwords, perhaps.
                    match error {
                        ConnectionError::ConnectionRefused(_) if !is_refused => {
                            is_refused = true;
                            tracing::warn!("{url}: {}", mqtt_bridge::explain(&error));
                        }
                        error => tracing::debug!("{error}"),
                    }
                    sleep(retry_delay(attempts)).await;
                    attempts += 1;
                }
            }
        }
    }
}

/// Whether nobody was there to connect to.
fn is_away(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::Io(error) => error.kind() == ErrorKind::ConnectionRefused,
        error => matches!(error, ConnectionError::NetworkTimeout),
    }
}

/// Doubles from attempt to attempt, up to a limit. A part of it is chance: a thousand sensors that
/// lost the same broker do not all come back at the same moment.
fn retry_delay(attempts: u32) -> Duration {
    let [first, last] = RETRY;
    let delay = first
        .saturating_mul(2_u32.saturating_pow(attempts))
        .min(last);
    delay.mul_f64(rand::random_range(0.5..=1.0))
}

/// The new pause that a command asks for.
fn obey(payload: &[u8]) -> Result<Duration> {
    let command: DeviceCommand = serde_json::from_slice(payload)?;
    mqtt_bridge::in_bounds(Duration::from_millis(command.interval_ms))
}

/// A day that is warmest in the afternoon, and a heating that goes on and off.
#[expect(clippy::cast_precision_loss, reason = "a day has few milliseconds")]
fn celsius(timestamp_ms: u64) -> f64 {
    let turn = |period_s: u64| {
        let period = period_s * 1_000;
        std::f64::consts::TAU * (timestamp_ms % period) as f64 / period as f64
    };
    let celsius = 20.5 - 2.0 * turn(24 * 3_600).cos() + 0.5 * turn(60).sin();
    (celsius * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_between_attempts_grow_to_a_limit() {
        assert!(retry_delay(0) <= RETRY[0]);
        assert!(retry_delay(3) >= RETRY[0] * 4);
        for attempts in [10, 100, u32::MAX] {
            assert!((RETRY[1] / 2..=RETRY[1]).contains(&retry_delay(attempts)));
        }
    }

    #[test]
    fn a_command_is_obeyed_within_bounds() {
        assert_eq!(
            obey(br#"{"interval_ms": 500}"#).ok(),
            Some(Duration::from_millis(500))
        );
        for command in ["", "500", r#"{"interval_ms": 0}"#, r#"{"interval_ms": -1}"#] {
            assert!(obey(command.as_bytes()).is_err(), "{command}");
        }
        assert!(obey(format!(r#"{{"interval_ms": {}}}"#, u64::MAX).as_bytes()).is_err());
    }

    #[test]
    fn the_temperature_is_plausible() {
        for hour in 0..48 {
            assert!((17.0..=24.0).contains(&celsius(1_790_000_000_000 + hour * 3_600_000)));
        }
    }
}
