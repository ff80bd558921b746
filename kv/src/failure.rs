//! What a failed call means for the next one, and in words.

use std::error::Error;
use std::io;
use std::iter::successors;

use anyhow::anyhow;
use async_nats::jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind, KeyValueError,
    KeyValueErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind};
use async_nats::jetstream::{self, ErrorCode};
use common::NatsArgs;

use crate::BUCKET;

/// What a failed call of JetStream says about the next one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Failure {
    /// There is no such bucket.
    Missing,
    /// Somebody else wrote after the revision that we had read.
    Overtaken,
    /// Nobody answered: the server is away, or a cluster is electing a leader.
    Passing,
    /// The server's last word, until somebody changes its settings.
    Lasting,
}

/// Tells the kinds of failure apart.
#[must_use]
pub fn failure(error: &(dyn Error + 'static)) -> Failure {
    match answer(error).map(|answer| answer.error_code()) {
        Some(ErrorCode::STREAM_NOT_FOUND) => Failure::Missing,
        Some(
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT,
        ) => Failure::Overtaken,
        Some(ErrorCode::CLUSTER_NOT_AVAILABLE) => Failure::Passing,
        Some(_) => Failure::Lasting,
        None if is_off(error) || is_no_bucket(error) => Failure::Lasting,
        None => Failure::Passing,
    }
}

/// The error in one line: what failed, on which server, why, and what to do. One of printing
/// stays as it is: nothing is wrong with the server.
#[must_use]
pub fn explain(what: &str, server: &NatsArgs, error: anyhow::Error) -> anyhow::Error {
    if error.is::<io::Error>() {
        return error;
    }
    let error: &(dyn Error + 'static) = error.as_ref();
    let code = answer(error).map(|answer| answer.error_code());
    let (why, advice) = if code == Some(ErrorCode::STREAM_NOT_FOUND) {
        let why = format!("there is no bucket {BUCKET}");
        (why, "`config-admin set true` makes it")
    } else if is_off(error)
        || code == Some(ErrorCode::JETSTREAM_NOT_ENABLED)
        || code == Some(ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT)
    {
        let advice =
            "start it with `nats-server -js` or `cargo xtask up`, or name another with --server";
        ("JetStream is off".into(), advice)
    } else if is_no_bucket(error) {
        let why = format!("the stream KV_{BUCKET} is no key-value bucket");
        (why, "remove it, or use another account")
    } else if let Some(answer) = answer(error) {
        (
            answer.to_string(),
            "see the limits of the server, the account and the bucket",
        )
    } else {
        (error.to_string(), "check the server's health and try again")
    };
    anyhow!("{what} on {server}: {why}; {advice}")
}

/// What the server answered, where it answered at all. The client library keeps it in different
/// places.
fn answer(error: &(dyn Error + 'static)) -> Option<jetstream::Error> {
    successors(Some(error), |&error| error.source()).find_map(|error| {
        let kinds = (
            error
                .downcast_ref::<GetStreamError>()
                .map(GetStreamError::kind),
            error
                .downcast_ref::<CreateStreamError>()
                .map(CreateStreamError::kind),
            error
                .downcast_ref::<ConsumerError>()
                .map(ConsumerError::kind),
        );
        match kinds {
            (Some(GetStreamErrorKind::JetStream(answer)), ..)
            | (_, Some(CreateStreamErrorKind::JetStream(answer)), _)
            | (.., Some(ConsumerErrorKind::JetStream(answer))) => Some(answer),
            _ => error.downcast_ref::<jetstream::Error>().cloned(),
        }
    })
}

/// A server without JetStream has nobody who answers for it.
fn is_off(error: &(dyn Error + 'static)) -> bool {
    successors(Some(error), |&error| error.source()).any(|error| {
        let request = error.downcast_ref::<RequestError>().map(RequestError::kind);
        let create = error
            .downcast_ref::<CreateStreamError>()
            .map(CreateStreamError::kind);
        request == Some(RequestErrorKind::NoResponders)
            || create == Some(CreateStreamErrorKind::JetStreamUnavailable)
    })
}

fn is_no_bucket(error: &(dyn Error + 'static)) -> bool {
    let error = error
        .downcast_ref::<KeyValueError>()
        .map(KeyValueError::kind);
    error == Some(KeyValueErrorKind::InvalidStoreName)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_of_the_server(code: u64) -> serde_json::Result<jetstream::Error> {
        serde_json::from_value(serde_json::json!({"code": 400, "err_code": code}))
    }

    #[test]
    fn it_is_the_servers_answer_that_counts_and_silence_passes() -> serde_json::Result<()> {
        for (code, expected) in [
            (10059, Failure::Missing),
            (10071, Failure::Overtaken),
            (10164, Failure::Overtaken),
            (10008, Failure::Passing),
            (10077, Failure::Lasting),
        ] {
            assert_eq!(failure(&answer_of_the_server(code)?), expected, "{code}");
            // The client library wraps it.
            let kind = GetStreamErrorKind::JetStream(answer_of_the_server(code)?);
            let error =
                KeyValueError::with_source(KeyValueErrorKind::GetBucket, GetStreamError::new(kind));
            assert_eq!(failure(&error), expected, "{code}, wrapped");
        }
        let silence = RequestError::new(RequestErrorKind::TimedOut);
        assert_eq!(failure(&silence), Failure::Passing);
        let nobody = RequestError::new(RequestErrorKind::NoResponders);
        assert_eq!(failure(&nobody), Failure::Lasting);
        Ok(())
    }
}
