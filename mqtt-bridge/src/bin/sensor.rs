//! A device at the edge. It speaks MQTT, and does not know of NATS.
//!
//! ```sh
//! cargo run -p mqtt-bridge --bin recorder                              # terminal 1
//! cargo run -p mqtt-bridge --bin sensor -- --count 5 --interval 100ms  # terminal 2
//! ```

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use common::{CancellationToken, Output};
use mqtt_bridge::{Event, MqttArgs, Session, TOPIC, Ticker, retained};
use rumqttc::{LastWill, QoS};
use tokio::time::{Instant, timeout_at};

/// Readings in flight: sent, and not acknowledged yet.
const MAX_IN_FLIGHT: u16 = 100;
/// An acknowledged reading is forgotten when another one is acknowledged this much later. After a
/// reconnect, those that are not forgotten are sent again.
const KEEP_ACKNOWLEDGED: Duration = Duration::from_millis(500);
/// The sensor gives up after 10 s without a packet from the broker, the broker after 7.5 s without
/// one from the sensor.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Time for the last acknowledgements and the goodbye.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Measures the temperature and publishes it by MQTT.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    mqtt: MqttArgs,
    /// Sensor id and MQTT client id. Two sensors with one id disconnect each other
    #[arg(long, default_value = "sensor-1", value_parser = mqtt_bridge::sensor_id, allow_hyphen_values = true)]
    id: String,
    /// Stop after this many readings
    #[arg(long)]
    count: Option<u64>,
    /// Time between two readings, such as 500ms or 1m; 0s: as fast as the broker takes them
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
    common::run(publish_readings)
}

async fn publish_readings(args: Args, stop: CancellationToken) -> Result<()> {
    let status_topic = format!("device/status/{}", args.id);
    let mut options = args.mqtt.options(&args.id)?;
    options
        // The broker keeps the session of this client id, and commands of QoS 1, meanwhile.
        .set_clean_session(false)
        // The broker publishes this if the sensor vanishes without a goodbye.
        .set_last_will(LastWill::new(&status_topic, "offline", QoS::AtLeastOnce, true))
        .set_keep_alive(KEEP_ALIVE)
        .set_inflight(MAX_IN_FLIGHT);
    let online = retained(&status_topic, "online");
    let commands = format!("device/cmd/{}", args.id);
    let broker = Session::connect(options, online, commands, KEEP_ACKNOWLEDGED, &stop).await?;
    let ticker = Ticker::new(Instant::now(), args.interval);
    let mut out = Output::new();
    out.line(format!("{} sends to {TOPIC}, QoS {}, every {ticker}", args.id, args.qos)).await?;

    let started = Instant::now();
    let mut sensor = Sensor { args, broker, ticker, out, started, taken: 0 };
    while sensor.left() > 0 || !sensor.broker.is_idle() {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            event = sensor.broker.next() => sensor.on_event(event?).await?,
            due = sensor.ticker.tick(), if sensor.room() > 0 => sensor.measure(due).await?,
        }
    }
    sensor.disconnect(&status_topic).await
}

struct Sensor {
    args: Args,
    broker: Session,
    ticker: Ticker,
    out: Output,
    started: Instant,
    /// How many readings were taken.
    taken: u64,
}

impl Sensor {
    fn left(&self) -> u64 {
        self.args.count.map_or(u64::MAX, |count| count - self.taken)
    }

    fn room(&self) -> u64 {
        self.left().min(self.broker.room() as u64)
    }

    async fn measure(&mut self, due: usize) -> Result<()> {
        let first = self.taken + 1;
        self.taken += self.room().min(due as u64);
        tracing::debug!("took #{}", self.taken);
        let measure = |seq| mqtt_bridge::measure(&self.args.id, seq);
        let readings = (first..=self.taken).map(measure).collect();
        let qos = rumqttc::qos(self.args.qos)?;
        self.broker.publish(qos, readings).await
    }

    async fn on_event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Connected => {} // There is room for readings again.
            Event::Sent(readings) => {
                for reading in readings.iter().filter(|_| !self.args.quiet) {
                    self.out.line(mqtt_bridge::line(reading)).await?;
                }
            }
            Event::SetInterval(interval) => {
                self.ticker = Ticker::new(Instant::now() + interval, interval);
                self.out.line(format!("interval set to {}", self.ticker)).await?;
            }
        }
        Ok(())
    }

    async fn disconnect(mut self, status_topic: &str) -> Result<()> {
        let deadline = Instant::now() + STOP_TIMEOUT;
        while !self.broker.is_idle()
            && let Ok(event) = timeout_at(deadline, self.broker.next()).await
        {
            self.on_event(event?).await?;
        }
        let (missing, taken) = (self.broker.unacknowledged(), self.taken);
        ensure!(
            missing == 0,
            "stopped before the broker acknowledged {missing} of {taken} readings: they may be lost"
        );
        // The broker does not publish the last will of a client that says goodbye.
        let goodbye = self.broker.disconnect(retained(status_topic, "offline"));
        if !matches!(timeout_at(deadline, goodbye).await, Ok(Ok(true))) {
            tracing::warn!("ended without a goodbye: the broker publishes the last will");
        }
        if self.args.count.is_some() {
            let elapsed = self.started.elapsed();
            self.out.line(common::summary(taken, "readings", elapsed)).await?;
        }
        self.out.flush().await
    }
}
