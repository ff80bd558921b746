//! Waiting for a server that is away, and trying again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_nats::Client;
use async_nats::connection::State;
use tokio::time::{sleep, timeout};

use crate::failure::{Failure, failure};

/// Before looking or trying again.
pub const PAUSE: Duration = Duration::from_millis(100);
/// How long to go on trying.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Resolves when there is a connection. Without one, a request would only wait in the client's
/// buffer.
pub async fn connected(client: &Client) {
    while client.connection_state() != State::Connected {
        sleep(PAUSE).await;
    }
}

/// Calls again and again while nobody answers, or the bucket is gone between two calls.
///
/// # Errors
///
/// The server's last word, or the last error when patience is at its end.
pub async fn retry<T>(client: &Client, call: impl AsyncFn() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        timeout(PATIENCE, connected(client))
            .await
            .with_context(|| format!("no connection for {PATIENCE:?}"))?;
        match call().await {
            Err(error)
                if matches!(failure(&*error), Failure::Missing | Failure::Passing)
                    && started.elapsed() < PATIENCE => {}
            result => return result,
        }
        sleep(PAUSE).await;
    }
}
