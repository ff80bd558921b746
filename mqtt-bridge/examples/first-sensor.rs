//! The first version of `sensor`: publishes ten readings by MQTT, one a second.
//!
//! ```sh
//! cargo run -p mqtt-bridge --example first-backend  # terminal 1
//! cargo run -p mqtt-bridge --example first-sensor   # terminal 2
//! ```
//!
//! What it does not survive: a broker that goes away. `publish` only puts a reading into a queue, so
//! the sensor prints ten readings and exits with 0 although most of them never left it (a test: two
//! of ten arrive). If the broker restarts while readings are unacknowledged, it does not know the
//! session any more, and the library drops them (a test: five of ten). And if the sensor dies, it stays silent: it has no last will.
//! The service, src/bin/sensor.rs, survives all of this.

use std::error::Error;
use std::io::{Write, stderr, stdout};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rumqttc::{AsyncClient, MqttOptions, QoS};
use serde_json::json;
use tokio::time::sleep;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("MQTT_URL").unwrap_or("mqtt://localhost:1883".into());
    let options = MqttOptions::parse_url(format!("{url}?client_id=sensor-1"))?;
    let (mqtt, mut eventloop) = AsyncClient::new(options, 100);

    // `poll` sends what is in the queue, and connects again after an error.
    tokio::spawn(async move {
        loop {
            if let Err(error) = eventloop.poll().await {
                let _ = writeln!(stderr(), "{error}");
                sleep(Duration::from_secs(1)).await;
            }
        }
    });

    for seq in 1..=10 {
        let celsius = 20.0 + f64::from(seq) / 10.0;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let reading =
            json!({"sensor_id": "sensor-1", "seq": seq, "celsius": celsius, "timestamp_ms": now});
        mqtt.publish("device/temp", QoS::AtLeastOnce, false, reading.to_string()).await?;
        writeln!(stdout(), "sensor-1 #{seq}: {celsius:.1} °C")?;
        sleep(Duration::from_secs(1)).await;
    }
    mqtt.disconnect().await?;
    Ok(())
}
