//! Repeating a call through an outage.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use async_nats::connection::State;
use tokio::time::{Instant, sleep};

use super::failure::{Failure, Refused, code, explain, failure};
use crate::connection::Connection;
use crate::process::Stopped;

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Calls until the call succeeds, it fails with a kind that is not in `retry_on`, or `timeout` is
/// over. A call whose connection is lost is repeated as soon as there is a connection again.
///
/// If something is missing that is waited for, it says so once on stderr.
///
/// # Errors
///
/// [`Refused`] with the last failure. [`Stopped`] if the program is told to stop meanwhile. What the
/// server has denied.
pub async fn retry<T>(
    nats: &Connection,
    retry_on: &[Failure],
    timeout: Duration,
    mut call: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let started = Instant::now();
    let mut is_reported = false;
    let mut last = anyhow!("there is no connection");
    let attempts = async {
        loop {
            while nats.connection_state() != State::Connected {
                sleep(PAUSE).await;
            }
            let disconnected = nats.disconnected();
            last = tokio::select! {
                biased;
                result = call() => match result {
                    Ok(value) => return Some(value),
                    Err(error) => error,
                },
                error = disconnected => error,
            };
            let failure = failure(last.as_ref());
            if started.elapsed() >= timeout || !retry_on.contains(&failure) {
                return None;
            }
            if failure == Failure::Missing && !is_reported {
                is_reported = true;
                tracing::info!("{last}: waiting until it exists");
            }
            tracing::debug!("trying again: {last:#}");
            sleep(PAUSE).await;
        }
    };
    let value = tokio::select! {
        biased;
        () = nats.stop().cancelled() => {
            nats.permitted()?;
            bail!(Stopped);
        }
        value = attempts => value,
        () = sleep(timeout) => None,
    };
    nats.permitted()?;
    let error = last.as_ref();
    let refused = || Refused { failure: failure(error), code: code(error), why: explain(error) };
    value.ok_or_else(|| refused().into())
}
