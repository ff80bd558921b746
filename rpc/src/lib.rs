//! What `math-server` and `math-service` have in common: the answer. And what the second one says
//! about itself.

mod service;

use async_nats::HeaderMap;
use async_nats::service::{NATS_SERVICE_ERROR, NATS_SERVICE_ERROR_CODE, error::Error};
use common::payload::{self, SumReply, SumRequest};

pub use service::Service;

/// Where requests go.
pub const SUBJECT: &str = "math.sum";
/// Each request goes to one of the servers that name this queue group.
pub const QUEUE_GROUP: &str = "math_servers";

/// How many requests a server handles at once. The others wait in the subscription.
pub const HANDLERS: usize = 256;

/// The reply to a request, or what is wrong with it.
///
/// # Errors
///
/// A code, as in HTTP: 400 for a request that does not parse, 422 for a sum that does not fit.
pub fn answer(request: &[u8]) -> Result<Vec<u8>, Error> {
    let SumRequest { x, y } = payload::parse(request).map_err(|error| {
        // It goes into a header: one short line.
        let why = common::printable(&error.to_string());
        refusal(400, format!(r#"expected {{"x": 17, "y": 25}}: {why}"#))
    })?;
    let result = x
        .checked_add(y)
        .ok_or_else(|| refusal(422, "the sum does not fit into 64 bits".into()))?;
    serde_json::to_vec(&SumReply { result }).map_err(|error| refusal(500, error.to_string()))
}

fn refusal(code: usize, status: String) -> Error {
    Error { status, code }
}

/// The headers by which a requester knows an error from an answer: NATS itself has no such thing.
/// They are those of the Services API, which other client libraries and tools understand.
#[must_use]
pub fn error_headers(error: &Error) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_SERVICE_ERROR, error.status.as_str());
    headers.insert(NATS_SERVICE_ERROR_CODE, error.code.to_string());
    headers
}

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
