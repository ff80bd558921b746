//! What `config-admin` and `config-app` agree on: where the switch is, how it is read, and what
//! a failed call means.

use std::error::Error;
use std::iter::successors;

use anyhow::anyhow;
use async_nats::jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind, KeyValueError,
    KeyValueErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::kv::{Entry, Operation};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind};
use async_nats::jetstream::{self, ErrorCode};
use common::NatsArgs;

/// The bucket. To JetStream it is the stream `KV_configs_playgrnd`.
pub const BUCKET: &str = "configs_playgrnd";
/// The switch in it. To JetStream it is the subject `$KV.configs_playgrnd.site_maintenance`.
pub const KEY: &str = "site_maintenance";

/// Reads an entry: on or off, or why it says neither, which means off. Anybody may write to a
/// bucket, and any bytes.
///
/// # Errors
///
/// What the entry is instead.
pub fn read(entry: &Entry) -> Result<bool, String> {
    match (entry.operation, &entry.value[..]) {
        (Operation::Put, b"true") => Ok(true),
        (Operation::Put, b"false") => Ok(false),
        (Operation::Put, _) => Err(format!("holds {}, neither true nor false", text(entry))),
        (Operation::Delete, _) => Err("was deleted".into()),
        (Operation::Purge, _) => Err("was purged".into()),
    }
}

/// The value as something that can be printed: short, on one line, without control characters.
#[must_use]
pub fn text(entry: &Entry) -> String {
    let start = &entry.value[..entry.value.len().min(40)];
    let more = if start.len() < entry.value.len() {
        "…"
    } else {
        ""
    };
    format!("{:?}{more}", String::from_utf8_lossy(start))
}

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

/// The error in one line: what failed, on which server, why, and what to do.
#[must_use]
pub fn explain(what: &str, server: &NatsArgs, error: &(dyn Error + 'static)) -> anyhow::Error {
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
    use async_nats::datetime::from_nanos;

    use super::*;

    #[test]
    fn only_true_and_false_are_values_and_only_where_they_were_put() -> Result<(), async_nats::Error>
    {
        let mut entry = Entry {
            bucket: BUCKET.into(),
            key: KEY.into(),
            value: "true".into(),
            revision: 1,
            delta: 0,
            created: from_nanos(0)?,
            operation: Operation::Put,
            seen_current: true,
        };
        assert_eq!(read(&entry), Ok(true));
        entry.operation = Operation::Delete;
        assert!(read(&entry).is_err());
        entry.operation = Operation::Put;
        for value in ["", "True", "true\n", "falsefalse"] {
            entry.value = value.into();
            assert!(read(&entry).is_err(), "{value:?}");
        }
        entry.value = "false".into();
        assert_eq!(read(&entry), Ok(false));
        // Whatever is in it, it can be shown.
        entry.value = vec![0xff; 50].into();
        assert_eq!(text(&entry).chars().count(), 43);
        entry.value = "a\u{1b}\nb".into();
        assert_eq!(text(&entry), r#""a\u{1b}\nb""#);
        Ok(())
    }
}
