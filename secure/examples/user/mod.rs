//! Connects as the user of a program, whose line `cargo xtask up --secure` has printed.

use std::env::var;
use std::io::{Write, stderr};

use async_nats::{Client, ConnectOptions, Event};

/// Says on stderr what nats-server denies.
pub async fn connect() -> Result<Client, async_nats::Error> {
    let seed = std::fs::read_to_string(var("NATS_NKEY")?)?;
    let options = ConnectOptions::with_nkey(seed.trim().to_owned())
        .add_root_certificates(var("NATS_CA")?.into())
        .custom_inbox_prefix(var("NATS_INBOX_PREFIX")?)
        .event_callback(async |event| {
            if let Event::ServerError(error) = event {
                let _ = writeln!(stderr(), "{error}");
            }
        });
    Ok(options.connect(var("NATS_URL")?).await?)
}
