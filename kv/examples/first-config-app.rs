//! The first version of `config-app`: prints the switch `site_maintenance`, then every change of it.
//!
//! ```sh
//! cargo run -p kv --bin config-admin -- set false  # makes the bucket
//! cargo run -p kv --example first-config-app       # terminal 1
//! cargo run -p kv --example first-config-admin     # terminal 2
//! ```
//!
//! What it does not survive:
//! - no bucket yet: it ends with an error;
//! - a change between `entry` and `watch`: it never prints it;
//! - another bucket under the same name, for instance after a restart of nats-server with an empty
//!   disk. After revision 10 of the old bucket it is silent until the new one reaches revision 11.
//!
//! The service, src/bin/config-app.rs, survives all of this.

use std::io::{self, Write, stdout};

use async_nats::jetstream::{self, kv::Entry};
use futures::StreamExt;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or_else(|_| "localhost:4222".into());
    let jetstream = jetstream::new(async_nats::connect(url).await?);
    let bucket = jetstream.get_key_value("configs_playgrnd").await?;

    let now = bucket.entry("site_maintenance").await?;
    let mut changes = bucket.watch("site_maintenance").await?;
    if let Some(entry) = now {
        print(&entry)?;
    }
    while let Some(entry) = changes.next().await {
        print(&entry?)?;
    }
    Ok(())
}

fn print(entry: &Entry) -> io::Result<()> {
    let state = if entry.value == "true" { "on" } else { "off" };
    writeln!(stdout(), "#{} site_maintenance is {state}", entry.revision)
}
