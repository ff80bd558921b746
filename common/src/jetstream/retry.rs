//! Repeating a call through an outage.

use std::time::Duration;

use anyhow::{Result, bail};
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
    call: impl AsyncFn() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now().checked_add(timeout);
    let is_over = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
    let mut is_reported = false;
    loop {
        if !is_connected_before(nats, deadline).await? {
            bail!(Refused::because(
                "there is no connection; check the server's health and try again".into()
            ));
        }
        let disconnected = nats.disconnected();
        let error = tokio::select! {
            biased;
            () = nats.stop().cancelled() => {
                nats.permitted()?;
                bail!(Stopped);
            }
            result = call() => match result {
                Ok(value) => return Ok(value),
                Err(error) => error,
            },
            error = disconnected => error,
        };
        nats.permitted()?;
        let failure = failure(error.as_ref());
        if is_over() || !retry_on.contains(&failure) {
            bail!(Refused {
                code: code(error.as_ref()),
                failure,
                why: explain(error.as_ref()),
            });
        }
        if failure == Failure::Missing && !is_reported {
            is_reported = true;
            tracing::info!("{}: waiting until it exists", explain(error.as_ref()));
        }
        tracing::debug!("trying again: {error:#}");
        sleep(PAUSE).await;
    }
}

/// Waits for a connection. Without one, a request would only wait in the client's buffer.
async fn is_connected_before(nats: &Connection, deadline: Option<Instant>) -> Result<bool> {
    while nats.connection_state() != State::Connected {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(false);
        }
        if nats
            .stop()
            .run_until_cancelled(sleep(PAUSE))
            .await
            .is_none()
        {
            nats.permitted()?;
            bail!(Stopped);
        }
    }
    Ok(true)
}
