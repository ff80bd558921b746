//! Payloads of the experiments: JSON, one type for each kind of message.

use std::borrow::Cow;
use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Serialize};

/// Parses a payload. It must be a JSON object: serde alone would also accept an array of the right
/// length.
///
/// # Errors
///
/// If it is not a JSON object, or not one of this type.
pub fn parse<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> serde_json::Result<T> {
    if !payload.trim_ascii_start().starts_with(b"{") {
        return Err(serde_json::Error::custom("not a JSON object"));
    }
    serde_json::from_slice(payload)
}

/// A log entry of `queue-groups`, on the subject `logs.process`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LogEntry<'a> {
    /// Counts from 1 in each run of the publisher.
    pub id: u64,
    /// How serious it is.
    pub level: Level,
    /// What happened. Borrowed from the JSON text, unless it contains an escape such as `\n`.
    #[serde(borrow)]
    pub message: Cow<'a, str>,
}

/// How serious a log entry is; in JSON upper case: `"INFO"`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the field's own words")]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        })
    }
}

/// A request of `rpc`, to the subject `math.sum`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct SumRequest {
    /// The first summand.
    pub x: i64,
    /// The second one.
    pub y: i64,
}

/// The reply to a [`SumRequest`].
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct SumReply {
    /// `x + y`.
    pub result: i64,
}

/// An order of `jetstream`, on the subject `orders.created`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Order {
    /// Unique across runs; sent as `Nats-Msg-Id` too, so that the server recognises a repetition.
    pub order_id: String,
    /// What is ordered.
    pub item: String,
    /// The number of pieces.
    pub quantity: u32,
    /// The price of one, in cents.
    pub unit_price_cents: u64,
}

/// A temperature reading of `mqtt-bridge`: MQTT topic `device/temp`, NATS subject `device.temp`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Reading {
    /// Who measured: `[A-Za-z0-9_-]{1,64}`.
    pub sensor_id: String,
    /// Counts from 1 in each run of the sensor.
    pub seq: u64,
    /// The temperature, in degrees Celsius.
    pub celsius: f64,
    /// When it was measured, in milliseconds since 1970-01-01 UTC.
    pub timestamp_ms: u64,
}

/// A command of `mqtt-bridge` to one sensor: NATS subject `device.cmd.<sensor id>`, MQTT topic
/// `device/cmd/<sensor id>`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct DeviceCommand {
    /// The new pause between two readings, in milliseconds.
    pub interval_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_what_clients_in_other_languages_send() -> serde_json::Result<()> {
        let json = r#"{"id":1,"level":"INFO","message":"started"}"#;
        let entry = LogEntry { id: 1, level: Level::Info, message: "started".into() };
        assert_eq!(parse::<LogEntry>(json.as_bytes())?, entry);
        assert_eq!(serde_json::to_string(&entry)?, json);
        Ok(())
    }

    #[test]
    fn an_array_is_no_payload() {
        assert!(parse::<SumReply>(br#" {"result": 3}"#).is_ok());
        for payload in ["[3]", "3", "", "  ", "null"] {
            assert!(parse::<SumReply>(payload.as_bytes()).is_err(), "{payload}");
        }
    }
}
