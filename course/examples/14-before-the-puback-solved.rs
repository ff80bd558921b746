//! 14 Before the PUBACK
//!
//! A sensor sends its readings by MQTT with QoS 1, at least once, and ends.
//! The readings are billed, and a tenth of them is missing: always the last
//! ones, always when the broker was slow for a moment.
//!
//! Make the sensor end when the broker has acknowledged all readings.

use std::error::Error;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::json;
use tokio::time::sleep;

const COUNT: u32 = 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("MQTT_URL").unwrap_or("mqtt://localhost".into());
    let options = MqttOptions::parse_url(format!("{url}?client_id=prove-1"))?;
    let (mqtt, mut eventloop) = AsyncClient::new(options, 100);

    // Sends what is in the queue, and receives what the broker says.
    let broker_has_all = tokio::spawn(async move {
        let mut acknowledged = 0;
        while acknowledged < COUNT {
            match eventloop.poll().await {
                Ok(Event::Incoming(Packet::PubAck(_))) => acknowledged += 1,
                Ok(_) => {}
                Err(error) => {
                    eprintln!("{error}");
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    });

    for seq in 1..=COUNT {
        let reading = json!({ "sensor_id": "prove-1", "seq": seq,
            "celsius": 21.5, "timestamp_ms": 1_790_000_000_000_u64 });
        let reading = reading.to_string();
        mqtt.publish("device/temp", QoS::AtLeastOnce, false, reading).await?;
        println!("prove-1 #{seq}: 21.5 °C");
        sleep(Duration::from_millis(50)).await;
    }
    // Not before there is a PUBACK for each reading.
    broker_has_all.await?;
    Ok(())
}
