//! What a refusal means: try again, or give up, and what to do about it.

use std::error::Error as _;

use async_nats::jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, PublishError, PublishErrorKind, RequestError,
    RequestErrorKind,
};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind};
use async_nats::jetstream::{Error, ErrorCode};

/// What to do where JetStream is switched off.
pub const OFF: &str =
    "JetStream is off; start the server with --jetstream, or allow it for this account";

/// What a refusal means.
#[derive(Debug, PartialEq)]
pub enum Refusal {
    /// JetStream is off. A server that is stopping says so, too.
    Off,
    /// No answer, or not now: servers are electing a leader, or one is stopping. The same request
    /// is worth another attempt.
    Passing,
    /// There is no such stream.
    NoStream,
    /// There is such a stream, with other settings.
    OtherSettings,
    /// It would be refused again; with what to do about it, or nothing.
    Lasting(&'static str),
}

impl From<&CreateStreamError> for Refusal {
    fn from(error: &CreateStreamError) -> Self {
        match error.kind() {
            CreateStreamErrorKind::JetStream(error) => error.error_code().into(),
            CreateStreamErrorKind::JetStreamUnavailable => Self::Off,
            CreateStreamErrorKind::TimedOut => Self::Passing,
            _ => Self::Lasting(""),
        }
    }
}

impl From<&ConsumerError> for Refusal {
    fn from(error: &ConsumerError) -> Self {
        let nobody_answers = || {
            let source = error.source().and_then(|source| source.downcast_ref());
            source
                .is_some_and(|error: &RequestError| error.kind() == RequestErrorKind::NoResponders)
        };
        match error.kind() {
            ConsumerErrorKind::JetStream(error) => error.error_code().into(),
            ConsumerErrorKind::Request if nobody_answers() => Self::Off,
            ConsumerErrorKind::Request | ConsumerErrorKind::TimedOut => Self::Passing,
            _ => Self::Lasting(""),
        }
    }
}

impl From<&PublishError> for Refusal {
    fn from(error: &PublishError) -> Self {
        let code = || error.source()?.downcast_ref().map(Error::error_code);
        match error.kind() {
            // No answer, or nobody who answers for this subject: stopped, electing, or deleted.
            PublishErrorKind::TimedOut
            | PublishErrorKind::BrokenPipe
            | PublishErrorKind::StreamNotFound => Self::Passing,
            _ => code().map_or(Self::Lasting(""), Self::from),
        }
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        /// The same message id is just being stored: this is a repetition of it.
        const DUPLICATE_IN_PROCESS: ErrorCode = ErrorCode(10158);
        match code {
            ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
                Self::Off
            }
            DUPLICATE_IN_PROCESS
            | ErrorCode::CLUSTER_NOT_AVAILABLE
            | ErrorCode::CLUSTER_NOT_LEADER
            | ErrorCode::CLUSTER_NOT_ACTIVE
            | ErrorCode::STREAM_OFFLINE
            | ErrorCode::CONSUMER_OFFLINE => Self::Passing,
            ErrorCode::STREAM_NOT_FOUND => Self::NoStream,
            ErrorCode::STREAM_NAME_EXIST => Self::OtherSettings,
            ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::MEMORY_RESOURCES_EXCEEDED
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::STREAM_STORE_FAILED => Self::Lasting(
                "; delete old orders with `nats stream purge playgrnd_stream`, or raise the server's limits",
            ),
            ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED | ErrorCode::CLUSTER_NO_PEERS => {
                Self::Lasting("; a replica needs a server of its own in a cluster")
            }
            _ => Self::Lasting(""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_passes_and_a_full_disk_does_not() {
        let silence = PublishError::new(PublishErrorKind::TimedOut);
        assert_eq!(Refusal::from(&silence), Refusal::Passing);
        let too_large = PublishError::new(PublishErrorKind::MaxPayloadExceeded);
        assert_eq!(Refusal::from(&too_large), Refusal::Lasting(""));
        let full = Refusal::from(ErrorCode::STORAGE_RESOURCES_EXCEEDED);
        assert!(matches!(full, Refusal::Lasting(advice) if advice.contains("purge")));
    }
}
