//! Connects as the user of a program, whose line `cargo xtask up --secure` has printed.

use std::env::var;
use std::io::{Write, stderr};

use async_nats::{Client, ConnectOptions, Event};
use futures::StreamExt;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// A connection, and what nats-server denies it, which is also said on stderr.
pub async fn connect() -> Result<(Client, UnboundedReceiver<()>), async_nats::Error> {
    let seed = std::fs::read_to_string(var("NATS_NKEY")?)?;
    let prefix = var("NATS_INBOX_PREFIX")?;
    // Denied to most programs, and [`handled`] does it.
    let to_itself = format!("Publish to \"{prefix}.");
    let (denied, denials) = unbounded_channel();
    let options = ConnectOptions::with_nkey(seed.trim().to_owned())
        .add_root_certificates(var("NATS_CA")?.into())
        .custom_inbox_prefix(prefix)
        .event_callback(move |event| {
            if let Event::ServerError(error) = event {
                if !error.to_string().contains(&to_itself) {
                    let _ = writeln!(stderr(), "{error}");
                }
                let _ = denied.send(());
            }
            std::future::ready(())
        });
    Ok((options.connect(var("NATS_URL")?).await?, denials))
}

/// Waits until nats-server has handled everything that was sent before: a message to an inbox of its
/// own is back, or is denied, as what was sent before may be, too.
pub async fn handled(
    nats: &Client,
    denials: &mut UnboundedReceiver<()>,
) -> Result<(), async_nats::Error> {
    let inbox = nats.new_inbox();
    let mut messages = nats.subscribe(inbox.clone()).await?;
    nats.publish(inbox, "".into()).await?;
    tokio::select! {
        _ = messages.next() => {}
        _ = denials.recv() => {}
    }
    Ok(())
}
