//! Publishes a command on NATS, which a sensor receives by MQTT.
//!
//! ```sh
//! cargo run -p mqtt-bridge --bin sensor                                   # terminal 1
//! cargo run -p mqtt-bridge --bin device-admin -- interval sensor-1 500ms  # terminal 2
//! ```

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use common::{CancellationToken, Output};
use mqtt_bridge::DeviceCommand;

/// Sends commands to sensors.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sets the time between two readings
    Interval {
        /// The sensor's id
        #[arg(value_parser = mqtt_bridge::sensor_id, allow_hyphen_values = true)]
        sensor: String,
        /// Time between two readings, such as 500ms, 2s or 1m
        #[arg(value_parser = mqtt_bridge::interval)]
        duration: Duration,
    },
}

fn main() -> ExitCode {
    common::run(send_command)
}

async fn send_command(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("device-admin", &stop).await?;
    nats.give_up_if_refused();
    let Command::Interval { sensor, duration } = args.command;
    let command = DeviceCommand { interval_ms: u64::try_from(duration.as_millis())? };

    // nats-server delivers this on the MQTT topic `device/cmd/<sensor id>` with QoS 0: a sensor that
    // is not connected at this moment never gets it, and device-admin does not learn of that.
    let subject = format!("device.cmd.{sensor}");
    let payload = serde_json::to_vec(&command)?;
    nats.publish(subject.clone(), payload.into()).await?;
    nats.close().await?;

    let interval = humantime::format_duration(duration);
    let mut out = Output::new();
    out.line(format!("sent to {subject}: a reading every {interval}")).await?;
    out.flush().await
}
