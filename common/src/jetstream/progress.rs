//! Work that takes longer than `ack_wait`.

use std::time::Duration;

use anyhow::{Error, Result};
use async_nats::jetstream::{AckKind, Message};
use tokio::time::{Instant, interval_at};

/// Waits until `work` is done, and meanwhile reports to nats-server every `period` that the message
/// is being handled. Each report starts `ack_wait` anew, so the message is not delivered again.
///
/// # Errors
///
/// If the connection is closed.
pub async fn with_progress<T>(
    message: &Message,
    period: Duration,
    work: impl Future<Output = T>,
) -> Result<T> {
    let mut reports = interval_at(Instant::now() + period, period);
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return Ok(result),
            _ = reports.tick() => {}
        }
        tokio::select! {
            result = &mut work => return Ok(result),
            // Waits if the client's buffer is full, as nats-server is away.
            sent = message.ack_with(AckKind::Progress) => sent.map_err(Error::from_boxed)?,
        }
    }
}
