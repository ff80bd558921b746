//! What a failed call of JetStream, or of a bucket, means for the next one.

use std::error::Error;
use std::fmt;
use std::io;
use std::iter::successors;

use async_nats::jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind, KeyValueError,
    KeyValueErrorKind, PublishError, PublishErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::kv::{EntryError, EntryErrorKind, WatchError, WatchErrorKind};
use async_nats::jetstream::stream::{
    ConsumerError, ConsumerErrorKind, DirectGetError, DirectGetErrorKind,
};
use async_nats::jetstream::{self, ErrorCode};
use tokio::time::error::Elapsed;

use crate::connection::Disconnected;

/// What a failed call says about the next one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Failure {
    /// No answer, or not now: the server is away or stopping, or a cluster elects a leader.
    Unanswered,
    /// There is no such stream, consumer or bucket.
    Missing,
    /// JetStream is off. A server that is stopping says so, too.
    Off,
    /// Another call fails in the same way, until somebody changes something.
    Refused,
}

/// A failure that no retry cures, in words that say what to do.
#[derive(Debug)]
pub struct Refused {
    pub(super) why: String,
    pub(super) code: Option<ErrorCode>,
    /// What the failure was when a retry gave up.
    pub(super) failure: Failure,
}

impl Refused {
    /// The program's own reason.
    #[must_use]
    pub fn because(why: String) -> Self {
        Self {
            why,
            code: None,
            failure: Failure::Refused,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.why)
    }
}

impl Error for Refused {}

/// Tells the kinds of failure apart. What passes is a list; everything else counts as
/// [`Failure::Refused`], so that no program retries for ever what no retry cures.
#[must_use]
pub fn failure(error: &(dyn Error + 'static)) -> Failure {
    /// A repetition came while the server was still storing the first message with this id.
    const DUPLICATE_IN_PROCESS: ErrorCode = ErrorCode(10158);
    if let Some(refused) = refused(error) {
        return refused.failure;
    }
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
        ) => Failure::Unanswered,
        None if is_off(error) => Failure::Off,
        None if chain(error).any(is_unanswered) => Failure::Unanswered,
        _ => Failure::Refused,
    }
}

/// The error code of the server's answer, if it answered.
#[must_use]
pub fn code(error: &(dyn Error + 'static)) -> Option<ErrorCode> {
    let noted = refused(error).and_then(|refused| refused.code);
    noted.or_else(|| answer(error).map(|answer| answer.error_code()))
}

/// Why a call failed, and what to do about it, in one line.
#[must_use]
pub fn explain(error: &(dyn Error + 'static)) -> String {
    if let Some(refused) = refused(error) {
        return refused.to_string();
    }
    if failure(error) == Failure::Off {
        return "JetStream is off; start the server with `nats-server -js` or `cargo xtask up`, or \
                name another with --server"
            .into();
    }
    let Some(answer) = answer(error) else {
        return match failure(error) {
            Failure::Unanswered => format!("{error}; check the server's health and try again"),
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

/// What a retry made of the error.
fn refused<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Refused> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// The server's answer, which the client library keeps in different places.
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

/// A server without JetStream has no subscription for its API.
fn is_off(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|error| {
        let request = error.downcast_ref().map(RequestError::kind);
        let create = error.downcast_ref().map(CreateStreamError::kind);
        request == Some(RequestErrorKind::NoResponders)
            || create == Some(CreateStreamErrorKind::JetStreamUnavailable)
    })
}

/// The kinds of errors that mean no answer. A publish that finds no stream is one: while a cluster
/// elects a stream's leader, no server answers for its subjects.
fn is_unanswered(error: &(dyn Error + 'static)) -> bool {
    fn is<E: Error + 'static>(error: &(dyn Error + 'static), kind: impl Fn(&E) -> bool) -> bool {
        error.downcast_ref().is_some_and(kind)
    }
    error.is::<Disconnected>()
        || error.is::<Elapsed>()
        || is(error, |error: &io::Error| {
            error.kind() == io::ErrorKind::TimedOut
        })
        || is(error, |error: &async_nats::RequestError| {
            use async_nats::RequestErrorKind::{NoResponders, TimedOut};
            matches!(error.kind(), NoResponders | TimedOut)
        })
        || is(error, |error: &RequestError| {
            error.kind() == RequestErrorKind::TimedOut
        })
        || is(error, |error: &PublishError| {
            use PublishErrorKind::{BrokenPipe, StreamNotFound, TimedOut};
            matches!(error.kind(), BrokenPipe | StreamNotFound | TimedOut)
        })
        || is(error, |error: &CreateStreamError| {
            error.kind() == CreateStreamErrorKind::TimedOut
        })
        || is(error, |error: &ConsumerError| {
            error.kind() == ConsumerErrorKind::TimedOut
        })
        || is(error, |error: &DirectGetError| {
            error.kind() == DirectGetErrorKind::TimedOut
        })
        || is(error, |error: &EntryError| {
            error.kind() == EntryErrorKind::TimedOut
        })
        || is(error, |error: &WatchError| {
            error.kind() == WatchErrorKind::TimedOut
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

    fn answered(code: u64) -> serde_json::Result<jetstream::Error> {
        serde_json::from_value(serde_json::json!({"code": 400, "err_code": code}))
    }

    #[test]
    fn the_servers_answer_decides() -> serde_json::Result<()> {
        for (code, expected) in [
            (10039, Failure::Off),
            (10059, Failure::Missing),
            (10008, Failure::Unanswered),
            (10047, Failure::Refused),
            (10077, Failure::Refused),
        ] {
            assert_eq!(failure(&answered(code)?), expected, "{code}");
            // The client library wraps it.
            let kind = GetStreamErrorKind::JetStream(answered(code)?);
            let error =
                KeyValueError::with_source(KeyValueErrorKind::GetBucket, GetStreamError::new(kind));
            assert_eq!(failure(&error), expected, "{code}, wrapped");
        }
        assert!(explain(&answered(10047)?).contains("raise the server's limits"));
        Ok(())
    }

    #[test]
    fn no_answer_passes_and_anything_unknown_is_final() {
        let silence = RequestError::new(RequestErrorKind::TimedOut);
        assert_eq!(failure(&silence), Failure::Unanswered);
        let nobody = RequestError::new(RequestErrorKind::NoResponders);
        assert_eq!(failure(&nobody), Failure::Off);
        let no_stream = PublishError::new(PublishErrorKind::StreamNotFound);
        assert_eq!(failure(&no_stream), Failure::Unanswered);
        let too_large = PublishError::new(PublishErrorKind::MaxPayloadExceeded);
        assert_eq!(failure(&too_large), Failure::Refused);
        assert_eq!(failure(&fmt::Error), Failure::Refused);
    }

    #[test]
    fn a_failure_keeps_its_kind_after_the_retry_that_gave_up() {
        let off = Refused {
            failure: Failure::Off,
            ..Refused::because("JetStream is off".into())
        };
        assert_eq!(failure(&off), Failure::Off);
        assert_eq!(explain(&off), "JetStream is off");
        assert_eq!(
            failure(&Refused::because("the program says so".into())),
            Failure::Refused
        );
    }
}
