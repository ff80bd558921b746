//! 15 A presence that lies
//!
//! When it has connected, this sensor publishes `online`, retained, so that
//! each dashboard shows it, also one that is started later. Last week the
//! sensor fell into a river. The dashboards still say that it is online.
//!
//! A sensor that is gone can say nothing. Let the broker say `offline` for
//! it, and retain that, too.

use std::error::Error;
use std::time::Duration;

use rumqttc::{AsyncClient, MqttOptions, QoS};
use serde_json::json;
use tokio::time::sleep;

const STATUS: &str = "device/status/prove-1";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("MQTT_URL").unwrap_or("mqtt://localhost".into());
    let url = format!("{url}?client_id=prove-1");
    let mut options = MqttOptions::parse_url(url)?;
    options.set_keep_alive(Duration::from_secs(5));
    let (mqtt, mut eventloop) = AsyncClient::new(options, 100);
    tokio::spawn(async move { while eventloop.poll().await.is_ok() {} });
    mqtt.publish(STATUS, QoS::AtLeastOnce, true, "online").await?;

    for seq in 1.. {
        let reading = json!({ "sensor_id": "prove-1", "seq": seq,
            "celsius": 21.5, "timestamp_ms": 1_790_000_000_000_u64 });
        let reading = reading.to_string();
        mqtt.publish("device/temp", QoS::AtLeastOnce, false, reading).await?;
        println!("prove-1 #{seq}: 21.5 °C");
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
