//! 13 Two admins
//!
//! An admin turns a switch over: it reads the value, thinks for a moment,
//! and writes the other one. Since there are two admins, writes get lost:
//! both read "off", both write "on", and both believe that they changed it.
//!
//! Make a write fail if the value is no longer the one that was read, and
//! read again then.

use std::time::Duration;

use async_nats::jetstream::{self, kv::Config};
use tokio::time::sleep;

const KEY: &str = "site_maintenance";

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("localhost:4222".into());
    let jetstream = jetstream::new(async_nats::connect(url).await?);
    let mut args = std::env::args();
    let cycles: u64 = args.find_map(|arg| arg.parse().ok()).unwrap_or(5);
    let name = "configs_playgrnd".into();
    let config = Config { bucket: name, history: 64, ..Config::default() };
    let bucket = jetstream.create_key_value(config).await?;

    for _ in 0..2 * cycles {
        let entry = bucket.entry(KEY).await?;
        let is_on = entry.is_some_and(|entry| entry.value == "true");
        sleep(Duration::from_millis(20)).await;
        let value = (!is_on).to_string();
        let revision = bucket.put(KEY, value.clone().into()).await?;
        println!("#{revision} {KEY} is {value}");
    }
    Ok(())
}
