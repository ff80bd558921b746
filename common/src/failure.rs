//! What a failed call of JetStream, or of a bucket, means for the next one.

use std::error::Error;
use std::fmt;
use std::io;
use std::iter::successors;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind, KeyValueError,
    KeyValueErrorKind, PublishError, PublishErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind};
use async_nats::jetstream::{self, ErrorCode};
use tokio::time::{sleep, timeout};

use crate::connection::lost;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// What a failed call says about the next one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Failure {
    /// No answer, or not now: the server is away or stopping, or a cluster elects a leader.
    Passing,
    /// There is no such stream, consumer or bucket.
    Missing,
    /// JetStream is off. A server that is stopping says so, too.
    Off,
    /// The server's last word, until somebody changes something there.
    Lasting,
}

/// The last word on a call, in words that say what to do: no further attempt is worth it.
#[derive(Debug)]
pub struct Refused {
    why: String,
    code: Option<ErrorCode>,
}

impl Refused {
    /// The program's own reason.
    #[must_use]
    pub fn because(why: String) -> Self {
        Self { why, code: None }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.why)
    }
}

impl Error for Refused {}

/// Tells the kinds of failure apart.
#[must_use]
pub fn failure(error: &(dyn Error + 'static)) -> Failure {
    /// The same message id is just being stored: this is a repetition of it.
    const DUPLICATE_IN_PROCESS: ErrorCode = ErrorCode(10158);
    match code(error) {
        Some(ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT) => {
            Failure::Off
        }
        Some(ErrorCode::STREAM_NOT_FOUND | ErrorCode::CONSUMER_NOT_FOUND) => Failure::Missing,
        Some(
            DUPLICATE_IN_PROCESS
            | ErrorCode::CLUSTER_NOT_AVAILABLE
            | ErrorCode::CLUSTER_NOT_LEADER
            | ErrorCode::CLUSTER_NOT_ACTIVE
            | ErrorCode::STREAM_OFFLINE
            | ErrorCode::CONSUMER_OFFLINE,
        ) => Failure::Passing,
        Some(_) => Failure::Lasting,
        None if is_off(error) => Failure::Off,
        None if error.is::<io::Error>() || is_ours(error) => Failure::Lasting,
        None => Failure::Passing,
    }
}

/// The code of the server's answer, where it answered at all.
#[must_use]
pub fn code(error: &(dyn Error + 'static)) -> Option<ErrorCode> {
    let said = chain(error).find_map(|error| error.downcast_ref::<Refused>()?.code);
    said.or_else(|| answer(error).map(|answer| answer.error_code()))
}

/// Why a call failed and what to do about it, in one line.
#[must_use]
pub fn explain(error: &(dyn Error + 'static)) -> String {
    if failure(error) == Failure::Off {
        return "JetStream is off; start the server with `nats-server -js` or `cargo xtask up`, or \
                name another with --server"
            .into();
    }
    let Some(answer) = answer(error) else {
        return match failure(error) {
            Failure::Passing => format!("{error}; check the server's health and try again"),
            _ if is_no_bucket(error) => {
                "the stream in its place is no key-value bucket; remove it, or use another account"
                    .into()
            }
            _ => error.to_string(),
        };
    };
    let advice = match answer.error_code() {
        ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::MEMORY_RESOURCES_EXCEEDED
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::STREAM_STORE_FAILED => "delete what is old, or raise the server's limits",
        ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED | ErrorCode::CLUSTER_NO_PEERS => {
            "a replica needs a server of its own in a cluster"
        }
        _ => "see the settings of the server, the account and the stream",
    };
    format!("{answer}; {advice}")
}

/// Calls again and again while the failure is one of `worth`, and `patience` is not at its end. A
/// call whose connection is lost has failed: nobody answers it.
///
/// # Errors
///
/// [`Refused`], with the last failure; an [`io::Error`] of the program's own as it is.
pub async fn retry<T>(
    client: &Client,
    worth: &[Failure],
    patience: Duration,
    call: impl AsyncFn() -> Result<T>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        let left = patience.saturating_sub(started.elapsed());
        if timeout(left, connected(client)).await.is_err() {
            bail!(Refused::because(
                "there is no connection; check the server's health and try again".into()
            ));
        }
        let lost = lost();
        tokio::select! {
            biased;
            result = call() => match result {
                Ok(value) => return Ok(value),
                Err(error) if error.is::<io::Error>() => return Err(error),
                Err(error)
                    if worth.contains(&failure(error.as_ref())) && started.elapsed() < patience =>
                {
                    tracing::debug!("trying on: {error:#}");
                }
                Err(error) => bail!(Refused {
                    code: code(error.as_ref()),
                    why: explain(error.as_ref()),
                }),
            },
            () = lost => tracing::debug!("trying on: the connection was lost"),
        }
        sleep(PAUSE).await;
    }
}

/// Resolves when there is a connection. Without one, a request would only wait in the client's
/// buffer.
async fn connected(client: &Client) {
    while client.connection_state() != State::Connected {
        sleep(PAUSE).await;
    }
}

/// The client library keeps it in different places.
fn answer(error: &(dyn Error + 'static)) -> Option<jetstream::Error> {
    chain(error).find_map(|error| {
        if let Some(error) = error.downcast_ref::<GetStreamError>()
            && let GetStreamErrorKind::JetStream(answer) = error.kind()
        {
            return Some(answer);
        }
        if let Some(error) = error.downcast_ref::<CreateStreamError>()
            && let CreateStreamErrorKind::JetStream(answer) = error.kind()
        {
            return Some(answer);
        }
        if let Some(error) = error.downcast_ref::<ConsumerError>()
            && let ConsumerErrorKind::JetStream(answer) = error.kind()
        {
            return Some(answer);
        }
        error.downcast_ref::<jetstream::Error>().cloned()
    })
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |&error| error.source())
}

/// A server without JetStream has nobody who answers for it.
fn is_off(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|error| {
        let request = error.downcast_ref().map(RequestError::kind);
        let create = error.downcast_ref().map(CreateStreamError::kind);
        request == Some(RequestErrorKind::NoResponders)
            || create == Some(CreateStreamErrorKind::JetStreamUnavailable)
    })
}

/// What the client library refuses to ask for, or the program itself.
fn is_ours(error: &(dyn Error + 'static)) -> bool {
    is_no_bucket(error)
        || chain(error).any(|error| {
            let publish = error.downcast_ref().map(PublishError::kind);
            error.is::<Refused>() || publish == Some(PublishErrorKind::MaxPayloadExceeded)
        })
}

fn is_no_bucket(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|error| {
        let bucket = error.downcast_ref().map(KeyValueError::kind);
        bucket == Some(KeyValueErrorKind::InvalidStoreName)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u64) -> serde_json::Result<jetstream::Error> {
        serde_json::from_value(serde_json::json!({"code": 400, "err_code": code}))
    }

    #[test]
    fn it_is_the_servers_answer_that_counts() -> serde_json::Result<()> {
        for (code, expected) in [
            (10039, Failure::Off),
            (10059, Failure::Missing),
            (10008, Failure::Passing),
            (10047, Failure::Lasting),
            (10077, Failure::Lasting),
        ] {
            assert_eq!(failure(&refused(code)?), expected, "{code}");
            // The client library wraps it.
            let kind = GetStreamErrorKind::JetStream(refused(code)?);
            let error =
                KeyValueError::with_source(KeyValueErrorKind::GetBucket, GetStreamError::new(kind));
            assert_eq!(failure(&error), expected, "{code}, wrapped");
        }
        assert!(explain(&refused(10047)?).contains("raise the server's limits"));
        Ok(())
    }

    #[test]
    fn silence_passes_and_what_is_too_large_stays_so() {
        let silence = RequestError::new(RequestErrorKind::TimedOut);
        assert_eq!(failure(&silence), Failure::Passing);
        let nobody = RequestError::new(RequestErrorKind::NoResponders);
        assert_eq!(failure(&nobody), Failure::Off);
        // Nobody answers for a subject when a cluster elects a leader, too.
        let no_stream = PublishError::new(PublishErrorKind::StreamNotFound);
        assert_eq!(failure(&no_stream), Failure::Passing);
        let too_large = PublishError::new(PublishErrorKind::MaxPayloadExceeded);
        assert_eq!(failure(&too_large), Failure::Lasting);
    }
}
