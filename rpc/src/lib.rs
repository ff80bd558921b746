//! What the programs of `rpc` have in common: the subject, the sum, error replies.
//!
//! - [`Replies`]: whether each request that a server took got its reply;
//! - [`Service`]: what a service says about itself, in the documents of the Services API;
//! - [`load`]: many requests at once, and how long they took.

pub mod load;
mod replies;
mod service;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::service::{NATS_SERVICE_ERROR, NATS_SERVICE_ERROR_CODE, error::Error as Refusal};
use async_nats::{HeaderMap, Message, Subject};
use common::CancellationToken;
use common::payload::{self, SumReply, SumRequest};
use thiserror::Error;
use tokio::time::sleep;

pub use replies::Replies;
pub use service::Service;

/// The subject of requests.
pub const SUBJECT: &str = "math.sum";
/// The queue group of the servers: each request goes to one of its members.
pub const QUEUE_GROUP: &str = "math_servers";

/// Returns the reply to a request.
///
/// # Errors
///
/// A refusal with a code like those of HTTP: 400 for a request that does not parse, 422 for a sum
/// that does not fit into 64 bits.
pub fn answer(request: &[u8]) -> Result<Vec<u8>, Refusal> {
    let SumRequest { x, y } = payload::parse(request).map_err(|error| {
        // The text becomes a header, so it has to be one short line.
        let why = common::printable(&error.to_string());
        refusal(400, format!(r#"expected {{"x": 17, "y": 25}}: {why}"#))
    })?;
    let result =
        x.checked_add(y).ok_or_else(|| refusal(422, "the sum does not fit into 64 bits".into()))?;
    serde_json::to_vec(&SumReply { result }).map_err(|error| refusal(500, error.to_string()))
}

fn refusal(code: usize, status: String) -> Refusal {
    Refusal { status, code }
}

/// Returns the headers of an error reply: those of the Services API, which other client libraries
/// and tools understand. NATS itself does not tell an error from an answer.
#[must_use]
pub fn error_headers(refusal: &Refusal) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_SERVICE_ERROR, refusal.status.as_str());
    headers.insert(NATS_SERVICE_ERROR_CODE, refusal.code.to_string());
    headers
}

/// Returns the subject that a request wants its reply on. A message without one is not a request.
///
/// A subject that begins with `$` is refused: such subjects belong to nats-server. The requester
/// chooses the reply subject, but the reply is published with the rights of this program. An error
/// reply has no body, and without a body `$JS.API.STREAM.DELETE.orders` deletes the stream `orders`.
#[must_use]
pub fn reply_subject(message: &Message) -> Option<Subject> {
    match &message.reply {
        Some(subject) if subject.starts_with('$') => {
            let subject = common::printable(subject);
            tracing::warn!("no reply goes to {subject}: it belongs to nats-server");
            None
        }
        Some(subject) => Some(subject.clone()),
        None => {
            tracing::debug!("a message on {} names no reply subject", message.subject);
            None
        }
    }
}

/// Returns the sum that is in a reply.
///
/// # Errors
///
/// If it is an error reply, which only its headers tell, or something else.
pub fn result(reply: &Message) -> Result<i64> {
    if let Some(headers) = &reply.headers
        && let Some(code) = headers.get(NATS_SERVICE_ERROR_CODE)
    {
        let why = headers.get(NATS_SERVICE_ERROR).map_or("", |why| why.as_str());
        bail!("the server refuses, {code}: {why}; ask for something else");
    }
    let reply: SumReply = payload::parse(&reply.payload)
        .with_context(|| format!("the reply is not a sum; see what else answers {SUBJECT}"))?;
    Ok(reply.result)
}

/// Resolves 3 s after the program was told to stop: a reply that has not come by now is not waited
/// for.
pub async fn given_up(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(Duration::from_secs(3)).await;
}

/// No server has subscribed: nats-server says so at once, and the request was certainly not
/// handled.
#[derive(Debug, Error)]
#[error(
    "no responders: no server has subscribed to {SUBJECT}; start one with `cargo run -p rpc --bin math-server`"
)]
pub struct NoResponders;

#[cfg(test)]
mod tests {
    use super::*;

    fn text(request: &str) -> Result<String, usize> {
        let reply = answer(request.as_bytes()).map_err(|error| error.code)?;
        Ok(String::from_utf8_lossy(&reply).into_owned())
    }

    #[test]
    fn whole_numbers_of_64_bits_are_added_exactly() {
        assert_eq!(text(r#"{"x": 17, "y": 25}"#), Ok(r#"{"result":42}"#.into()));
        let near = r#" {"y": -9223372036854775808, "x": 9223372036854775807, "more": []} "#;
        assert_eq!(text(near), Ok(r#"{"result":-1}"#.into()));
        // Two to the power of 53, and one: a floating point number cannot hold it.
        let odd = r#"{"x": 9007199254740992, "y": 1}"#;
        assert_eq!(text(odd), Ok(r#"{"result":9007199254740993}"#.into()));
    }

    #[test]
    fn a_sum_that_does_not_fit_is_refused() {
        assert_eq!(text(r#"{"x": 9223372036854775807, "y": 1}"#), Err(422));
        assert_eq!(text(r#"{"x": -9223372036854775808, "y": -1}"#), Err(422));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for request in [
            "",
            "17 25",
            "[17, 25]",
            "{}",
            r#"{"x": 17}"#,
            r#"{"x": 17, "y": null}"#,
            r#"{"x": 17.0, "y": 25}"#,
            r#"{"x": "17", "y": 25}"#,
            r#"{"x": 17, "y": 25} {}"#,
            r#"{"x": 17, "x": 17, "y": 25}"#,
            r#"{"x": 9223372036854775808, "y": 25}"#,
        ] {
            assert_eq!(text(request), Err(400), "{request}");
        }
        assert_eq!(answer(&[0xff; 9]).map_err(|error| error.code), Err(400));
    }

    #[test]
    fn a_refusal_is_one_short_line_whatever_the_request_was() {
        let hostile = format!(r#"{{"x": "\r\nHMSG {}", "y": 1}}"#, "x".repeat(1_000_000));
        let status = answer(hostile.as_bytes()).map_err(|error| error.status);
        assert!(status.is_err_and(|status| status.len() < 200 && !status.contains(['\r', '\n'])));
    }
}
