//! The first version of `backend`: prints the readings of MQTT sensors, received by NATS.
//!
//! ```sh
//! cargo run -p mqtt-bridge --example first-backend  # terminal 1
//! cargo run -p mqtt-bridge --example first-sensor   # terminal 2
//! ```
//!
//! What it does not survive: its own restart and a malformed message. A plain subscriber misses
//! every reading that is sent while it is away (a test: 100 of 100), and the first payload that is
//! not JSON ends it. The service src/bin/recorder.rs survives both, src/bin/backend.rs the second.

use std::io::{Write, stdout};

use futures::StreamExt;
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("nats://localhost:4222".into());
    let nats = async_nats::connect(url).await?;

    // What sensors publish to the MQTT topic `device/temp` arrives on the NATS subject `device.temp`.
    let mut readings = nats.subscribe("device.temp").await?;
    writeln!(stdout(), "waiting for readings on device.temp")?;

    while let Some(message) = readings.next().await {
        let reading: Value = serde_json::from_slice(&message.payload)?;
        let sensor = reading["sensor_id"].as_str().unwrap_or("?");
        let (seq, celsius) = (&reading["seq"], &reading["celsius"]);
        writeln!(stdout(), "{sensor} #{seq}: {celsius} °C")?;
    }
    Ok(())
}
