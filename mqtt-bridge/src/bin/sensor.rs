//! A device at the edge: it speaks MQTT and has never heard of NATS.
//!
//! ```sh
//! cargo run -p mqtt-bridge --bin recorder                             # terminal 1
//! cargo run -p mqtt-bridge --bin sensor -- --count 5 --interval 100ms # terminal 2
//! ```

use std::io::{Write, stdout};
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use clap::Parser;
use mqtt_bridge::{MqttArgs, Outbox, Pace, Reading, Session, TOPIC};
use rumqttc::{LastWill, Packet, Publish, QoS, Request, Subscribe, SubscribeReasonCode};
use tokio::time::{Instant, sleep};

/// Readings on their way to the broker that it has not acknowledged yet.
const IN_FLIGHT: usize = 100;
/// A broker that says nothing for two of these is given up. It gives us up, and publishes the last
/// will, after one and a half.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// For the last acknowledgements once we were told to stop, and for the farewell.
const PATIENCE: Duration = Duration::from_secs(3);

/// Measures the temperature and sends it by MQTT.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    mqtt: MqttArgs,
    /// Who measures; the MQTT client id too, so no two sensors may share it
    #[arg(long, default_value = "sensor-1", value_parser = mqtt_bridge::sensor_id, allow_hyphen_values = true)]
    id: String,
    /// Stop after this many readings
    #[arg(long)]
    count: Option<u64>,
    /// Pause between two readings, such as 500ms or 1m; 0s: as fast as the broker takes them
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// 0: sent once, and perhaps lost; 1: sent until the broker acknowledges it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,
    /// Print no line for each reading
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    common::run(keep_sending(common::parse()))
}

async fn keep_sending(args: Args) -> Result<()> {
    let status = format!("device/status/{}", args.id);
    let commands = format!("device/cmd/{}", args.id);
    let mut broker = session(&args, &status)?;

    let qos = rumqttc::qos(args.qos)?;
    let mut outbox = Outbox::default();
    let mut pace = Pace::new(Instant::now(), args.interval);
    let (mut taken, mut started) = (0, None);
    let (mut is_ready, mut is_stopping) = (false, false);
    let mut too_late = pin!(async {
        common::shutdown().await;
        sleep(PATIENCE).await;
    });
    loop {
        let goes_on = !is_stopping && args.count.is_none_or(|count| taken < count);
        if !goes_on && outbox.is_empty() && (is_ready || is_stopping) {
            break;
        }
        tokio::select! {
            biased;
            () = common::shutdown(), if !is_stopping => is_stopping = true,
            () = &mut too_late => {
                let missing = outbox.unacknowledged();
                ensure!(
                    missing == 0,
                    "stopped before the broker acknowledged {missing} of {taken} readings: they may be lost"
                );
                break;
            }
            packet = broker.next() => match packet? {
                // First of all say that we are here: the last will has said the opposite. And
                // subscribe: a session that the broker has lost has no subscriptions.
                Some(Packet::ConnAck(_)) => {
                    let subscribe = Subscribe::new(&commands, QoS::AtLeastOnce).into();
                    broker.send([presence(&status, "online"), subscribe]).await?;
                    outbox.start_over(Instant::now().into());
                }
                Some(Packet::SubAck(answer)) => {
                    ensure!(
                        answer.return_codes != [SubscribeReasonCode::Failure],
                        "{} denied the subscription to {commands}; connect as a user that may, with --user",
                        broker.url()
                    );
                    is_ready = true;
                    if started.is_none() {
                        started = Some(Instant::now());
                        let Args { id, qos, .. } = &args;
                        writeln!(stdout(), "{id} sends to {TOPIC}, QoS {qos}, every {pace}")?;
                    }
                }
                // That a reading was sent says nothing; this says that the broker has it.
                Some(Packet::PubAck(_)) => {
                    let reading = outbox.acknowledge(Instant::now().into());
                    if let Some(reading) = reading.filter(|_| !args.quiet) {
                        writeln!(stdout(), "{}", mqtt_bridge::line(reading))?;
                    }
                }
                Some(Packet::Publish(command)) => match mqtt_bridge::command(&command.payload) {
                    Ok(pause) => {
                        pace = Pace::new(Instant::now() + pause, pause);
                        writeln!(stdout(), "told to send every {pace}")?;
                    }
                    Err(error) => tracing::warn!("no command, ignored: {error:#}"),
                },
                Some(_) => {}
                // While the broker is away, what it has not acknowledged is kept, and nothing is
                // added to it.
                None => is_ready = false,
            },
            due = pace.tick(), if goes_on && is_ready && outbox.len() < IN_FLIGHT => {
                let left = args.count.map_or(u64::MAX, |count| count - taken);
                let left = usize::try_from(left).unwrap_or(usize::MAX);
                let due = due.min(left).min(IN_FLIGHT - outbox.len());
                let readings = (0..due).map(|_| {
                    taken += 1;
                    measure(&args.id, taken)
                });
                let readings = readings.collect::<Result<Vec<_>>>()?;
                tracing::debug!("took #{taken}");
                if qos == QoS::AtLeastOnce {
                    outbox.extend(readings);
                } else {
                    broker.send(publishes(&readings, qos)?).await?;
                    for reading in readings.iter().filter(|_| !args.quiet) {
                        writeln!(stdout(), "{}", mqtt_bridge::line(reading))?;
                    }
                }
            }
        }
        if is_ready {
            broker.send(publishes(outbox.send(IN_FLIGHT), qos)?).await?;
        }
    }

    // The broker forgets the last will of a client that says goodbye, so we say it ourselves.
    broker.send([presence(&status, "offline")]).await?;
    if !broker.disconnect(PATIENCE).await? {
        tracing::warn!("ended without a farewell: the broker is away");
    }
    if args.count.is_some() {
        let elapsed = started.map_or(Duration::ZERO, |started| started.elapsed());
        writeln!(stdout(), "{}", common::summary(taken, "readings", elapsed))?;
    }
    Ok(())
}

/// What the broker is to know of us, before we say anything.
fn session(args: &Args, status: &str) -> Result<Session> {
    let (mut options, url) = args.mqtt.options(&args.id)?;
    options
        // The broker keeps our session while we are away: under this client id it knows us again.
        .set_clean_session(false)
        // What it publishes when we vanish without a word.
        .set_last_will(LastWill::new(status, "offline", QoS::AtLeastOnce, true))
        .set_keep_alive(KEEP_ALIVE)
        .set_inflight(u16::try_from(IN_FLIGHT)?)
        // The broker bounds what it delivers. A smaller bound here would cut the connection, get
        // the same command again, and so on for ever.
        .set_max_packet_size(usize::MAX, usize::MAX);
    Ok(Session::new(options, url))
}

/// Whether we are here. Retained: who asks later gets it, too.
fn presence(status: &str, word: &str) -> Request {
    let mut publish = Publish::new(status, QoS::AtMostOnce, word);
    publish.retain = true;
    publish.into()
}

/// Takes a reading.
fn measure(sensor_id: &str, seq: u64) -> Result<Reading> {
    let timestamp_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let timestamp_ms = u64::try_from(timestamp_ms)?;
    Ok(Reading {
        sensor_id: sensor_id.into(),
        seq,
        celsius: mqtt_bridge::celsius(timestamp_ms),
        timestamp_ms,
    })
}

/// What says each of these readings to the broker.
fn publishes<'a>(
    readings: impl IntoIterator<Item = &'a Reading>,
    qos: QoS,
) -> Result<Vec<Request>> {
    let publish = |reading| {
        let payload = serde_json::to_vec(reading)?;
        Ok(Publish::new(TOPIC, qos, payload).into())
    };
    readings.into_iter().map(publish).collect()
}
