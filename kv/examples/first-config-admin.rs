//! The first version of `config-admin`: turns the switch `site_maintenance` over once a second,
//! ten times.
//!
//! ```sh
//! cargo run -p kv --example first-config-admin  # terminal 1, makes the bucket
//! cargo run -p kv --example first-config-app    # terminal 2
//! ```
//!
//! What it does not survive: a second admin at the same time. Each remembers the value that it read
//! at its start, so both write "on", then both write "off": half of the writes change nothing, and
//! neither program notices. Stopped halfway, it leaves the site in maintenance.
//! The service, src/bin/config-admin.rs, survives all of this.

use std::io::{Write, stdout};
use std::time::Duration;

use async_nats::jetstream::{self, kv::Config};
use tokio::time::sleep;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or_else(|_| "localhost:4222".into());
    let jetstream = jetstream::new(async_nats::connect(url).await?);
    // Opens the bucket, or makes it.
    let config = Config { bucket: "configs_playgrnd".into(), history: 64, ..Config::default() };
    let bucket = jetstream.create_key_value(config).await?;

    // No value yet means off.
    let mut on = bucket.get("site_maintenance").await? == Some("true".into());
    for _ in 0..10 {
        sleep(Duration::from_secs(1)).await;
        on = !on;
        let revision = bucket.put("site_maintenance", on.to_string().into()).await?;
        let state = if on { "on" } else { "off" };
        writeln!(stdout(), "#{revision} site_maintenance is {state}")?;
    }
    Ok(())
}
