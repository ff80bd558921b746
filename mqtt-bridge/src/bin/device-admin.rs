//! The way down: a command published on NATS, which a sensor receives over MQTT.
//!
//! ```sh
//! cargo run -p mqtt-bridge --bin sensor                                   # terminal 1
//! cargo run -p mqtt-bridge --bin device-admin -- interval sensor-1 500ms  # terminal 2
//! ```

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use mqtt_bridge::DeviceCommand;

/// Tells sensors what to do.
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
    /// Sets the pause between two readings
    Interval {
        /// The sensor's id
        #[arg(value_parser = mqtt_bridge::sensor_id, allow_hyphen_values = true)]
        sensor: String,
        /// The pause, such as 500ms, 2s or 1m
        #[arg(value_parser = mqtt_bridge::interval)]
        duration: Duration,
    },
}

fn main() -> ExitCode {
    common::run(send_command(common::parse()))
}

async fn send_command(args: Args) -> Result<()> {
    let client = args.nats.connect("device-admin").await?;
    let Command::Interval { sensor, duration } = args.command;
    let command = DeviceCommand {
        interval_ms: u64::try_from(duration.as_millis())?,
    };

    // The server hands it to the sensor as the MQTT topic `device/cmd/<sensor id>`, with QoS 0:
    // a sensor that is not connected at this moment never gets it, and nobody tells us.
    let subject = format!("device.cmd.{sensor}");
    let payload = serde_json::to_vec(&command)?;
    client.publish(subject.clone(), payload.into()).await?;

    common::close(&client).await?;
    let duration = humantime::format_duration(duration);
    writeln!(stdout(), "sent to {subject}: a reading every {duration}")?;
    Ok(())
}
