//! Which calls are worth another attempt.

use std::error::Error;
use std::time::Duration;

use anyhow::Result;
use async_nats::jetstream::{Context, ErrorCode};
use common::Failure;

/// How long to go on trying.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Calls until the server answers. Between two calls the bucket can go.
///
/// # Errors
///
/// As [`common::retry`].
pub async fn retry<T>(jetstream: &Context, call: impl AsyncFn() -> Result<T>) -> Result<T> {
    let worth = [Failure::Passing, Failure::Missing];
    common::retry(&jetstream.client(), &worth, PATIENCE, call).await
}

/// Whether somebody else wrote after the revision that we had read.
#[must_use]
pub fn is_overtaken(error: &(dyn Error + 'static)) -> bool {
    let code = common::code(error);
    code == Some(ErrorCode::STREAM_WRONG_LAST_SEQUENCE)
        || code == Some(ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)
}
