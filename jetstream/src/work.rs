//! Work that takes long, and a program that is told to stop meanwhile.

use std::time::Duration;

use anyhow::{Error, Result};
use async_nats::jetstream::{AckKind, Message};
use common::CancellationToken;
use tokio::time::{Instant, interval_at, sleep};

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
            _ = reports.tick() => {
                message.ack_with(AckKind::Progress).await.map_err(Error::from_boxed)?;
            }
        }
    }
}

/// Returns a token that is cancelled `delay` after `stop`: the deadline for what a program has begun
/// before it was told to stop.
#[must_use]
pub fn cancelled_later(stop: CancellationToken, delay: Duration) -> CancellationToken {
    let later = CancellationToken::new();
    tokio::spawn({
        let later = later.clone();
        async move {
            stop.cancelled().await;
            sleep(delay).await;
            later.cancel();
        }
    });
    later
}
