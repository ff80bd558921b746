//! What a failed call of JetStream, or of a bucket, means for the next one.

use std::error::Error;
use std::fmt::{Debug, Display};
use std::io;
use std::iter::successors;

use async_nats::RequestErrorKind;
use async_nats::jetstream::context::{
    self, CreateStreamErrorKind, GetStreamErrorKind, KeyValueErrorKind, PublishErrorKind,
};
use async_nats::jetstream::kv::{EntryErrorKind, WatchErrorKind};
use async_nats::jetstream::stream::{ConsumerErrorKind, DirectGetErrorKind};
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
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
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
        Self { why, code: None, failure: Failure::Refused }
    }
}

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
        // A server of the cluster is down or cut off. Without that reason the cluster is too small.
        Some(ErrorCode::CLUSTER_NO_PEERS)
            if chain(error).any(|it| it.to_string().contains("peer offline")) =>
        {
            Failure::Unanswered
        }
        None if is_off(error) => Failure::Off,
        None if is_unanswered(error) => Failure::Unanswered,
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
            _ if kind(error) == Some(KeyValueErrorKind::InvalidStoreName) => {
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
        | ErrorCode::STREAM_STORE_FAILED => {
            "delete what is old, or raise the limits of account or server"
        }
        ErrorCode::CLUSTER_NOT_AVAILABLE => {
            "most servers of the cluster have to run: start them again"
        }
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
    if let Some(GetStreamErrorKind::JetStream(answer)) = kind(error) {
        Some(answer)
    } else if let Some(CreateStreamErrorKind::JetStream(answer)) = kind(error) {
        Some(answer)
    } else if let Some(ConsumerErrorKind::JetStream(answer)) = kind(error) {
        Some(answer)
    } else {
        chain(error).find_map(|error| error.downcast_ref().cloned())
    }
}

/// The first error of the client library with kinds of this type among the causes: its kind.
fn kind<K: Clone + Debug + Display + PartialEq + 'static>(
    error: &(dyn Error + 'static),
) -> Option<K> {
    chain(error).find_map(|error| Some(error.downcast_ref::<async_nats::error::Error<K>>()?.kind()))
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |&error| error.source())
}

/// A server without JetStream has no subscription for its API.
fn is_off(error: &(dyn Error + 'static)) -> bool {
    kind(error) == Some(context::RequestErrorKind::NoResponders)
        || kind(error) == Some(CreateStreamErrorKind::JetStreamUnavailable)
}

/// The kinds of errors that mean no answer. A publish that finds no stream is one: while a cluster
/// elects a stream's leader, no server answers for its subjects.
fn is_unanswered(error: &(dyn Error + 'static)) -> bool {
    use PublishErrorKind::{BrokenPipe, StreamNotFound, TimedOut};
    let is_timeout = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
    chain(error).any(|error| {
        error.is::<Disconnected>()
            || error.is::<Elapsed>()
            || error.downcast_ref().is_some_and(is_timeout)
    }) || matches!(kind(error), Some(BrokenPipe | StreamNotFound | TimedOut))
        || matches!(kind(error), Some(RequestErrorKind::NoResponders | RequestErrorKind::TimedOut))
        || kind(error) == Some(context::RequestErrorKind::TimedOut)
        || kind(error) == Some(CreateStreamErrorKind::TimedOut)
        || kind(error) == Some(ConsumerErrorKind::TimedOut)
        || kind(error) == Some(DirectGetErrorKind::TimedOut)
        || kind(error) == Some(EntryErrorKind::TimedOut)
        || kind(error) == Some(WatchErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::context::{
        GetStreamError, KeyValueError, PublishError, RequestError,
    };

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
        let placed = |why: &str| {
            let description = format!("no suitable peers for placement{why}");
            let error =
                serde_json::json!({"code": 400, "err_code": 10005, "description": description});
            serde_json::from_value::<jetstream::Error>(error)
        };
        assert_eq!(failure(&placed("")?), Failure::Refused);
        assert_eq!(failure(&placed(", peer offline")?), Failure::Unanswered);
        assert!(explain(&answered(10047)?).contains("raise the limits of account or server"));
        Ok(())
    }

    #[test]
    fn no_answer_passes_and_anything_unknown_is_final() {
        let silence = RequestError::new(context::RequestErrorKind::TimedOut);
        assert_eq!(failure(&silence), Failure::Unanswered);
        let nobody = RequestError::new(context::RequestErrorKind::NoResponders);
        assert_eq!(failure(&nobody), Failure::Off);
        let no_stream = PublishError::new(PublishErrorKind::StreamNotFound);
        assert_eq!(failure(&no_stream), Failure::Unanswered);
        let too_large = PublishError::new(PublishErrorKind::MaxPayloadExceeded);
        assert_eq!(failure(&too_large), Failure::Refused);
        assert_eq!(failure(&std::fmt::Error), Failure::Refused);
    }

    #[test]
    fn a_failure_keeps_its_kind_after_the_retry_that_gave_up() {
        let off = Refused { failure: Failure::Off, ..Refused::because("JetStream is off".into()) };
        assert_eq!(failure(&off), Failure::Off);
        assert_eq!(explain(&off), "JetStream is off");
        assert_eq!(failure(&Refused::because("the program says so".into())), Failure::Refused);
    }
}
