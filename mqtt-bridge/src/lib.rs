//! What the programs of this experiment share, and machinery that is not the lesson.

mod broker;
mod outbox;
mod reconnect;
mod recorded;
mod rumqttc_internals;
mod session;
mod stream;
mod thermometer;
mod ticker;
mod tls;

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::payload;
pub use common::payload::{DeviceCommand, Reading};

pub use broker::MqttArgs;

pub use recorded::recorded_before;
pub use session::{Event, Session, retained};
pub use stream::open_stream;
pub use thermometer::measure;
pub use ticker::Ticker;

/// The MQTT topic of the readings …
pub const TOPIC: &str = "device/temp";
/// … and the NATS subject that nats-server makes of it.
pub const SUBJECT: &str = "device.temp";

/// The intervals that a command may set. A device is far away: a typing error must not make it flood
/// the network, or silence it for good.
const INTERVALS: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(24 * 60 * 60);

/// Parses a sensor's id. It becomes a part of topics and subjects, so characters that mean something
/// in one of them are refused: dots, slashes, spaces, wildcards.
///
/// # Errors
///
/// If it is not `[A-Za-z0-9_-]{1,64}`.
pub fn sensor_id(text: &str) -> Result<String> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
    ensure!(
        (1..=64).contains(&text.len()) && text.bytes().all(allowed),
        "expected 1 to 64 letters, digits, `_` or `-`"
    );
    Ok(text.to_owned())
}

/// Parses a reading. Any program with permission for the subject can publish anything there.
///
/// # Errors
///
/// If it is not a reading.
pub fn reading(payload: &[u8]) -> Result<Reading> {
    let reading: Reading = payload::parse(payload)?;
    sensor_id(&reading.sensor_id).context("invalid sensor_id")?;
    Ok(reading)
}

/// The line that the programs print for a reading.
#[must_use]
pub fn line(reading: &Reading) -> String {
    let Reading { sensor_id, seq, celsius, .. } = reading;
    format!("{sensor_id} #{seq}: {celsius:.1} °C")
}

/// Identifies a reading: sensor, number and time. A sensor that is started again counts from 1
/// again, at another time.
pub type ReadingId = (String, u64, u64);

/// Returns the id of a reading.
#[must_use]
pub fn reading_id(reading: &Reading) -> ReadingId {
    let Reading { sensor_id, seq, timestamp_ms, .. } = reading;
    (sensor_id.clone(), *seq, *timestamp_ms)
}

/// Parses an interval between two readings, for [`DeviceCommand`].
///
/// # Errors
///
/// If it is not a duration between 1 ms and 24 h.
pub fn interval(text: &str) -> Result<Duration> {
    in_bounds(humantime::parse_duration(text)?)
}

/// Parses a command, and returns the interval that it sets.
///
/// # Errors
///
/// If it is not a command, or the interval is not between 1 ms and 24 h.
pub fn command(payload: &[u8]) -> Result<Duration> {
    let command: DeviceCommand = payload::parse(payload)?;
    in_bounds(Duration::from_millis(command.interval_ms))
}

fn in_bounds(interval: Duration) -> Result<Duration> {
    ensure!(
        INTERVALS.contains(&interval),
        "expected an interval of {} to {}",
        humantime::format_duration(*INTERVALS.start()),
        humantime::format_duration(*INTERVALS.end()),
    );
    Ok(interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_word_on_both_sides_of_the_bridge() {
        for id in ["sensor-1", "A_9", "-", &"x".repeat(64)] {
            assert!(sensor_id(id).is_ok(), "{id}");
        }
        for id in ["", "a/b", "a.b", "a b", "a*", "a>", "a+", "#", "é", &"x".repeat(65)] {
            assert!(sensor_id(id).is_err(), "{id}");
        }
    }

    #[test]
    fn a_payload_that_is_not_a_reading_is_refused() {
        let with = |id: &str| {
            format!(r#"{{"sensor_id":"{id}","seq":1,"celsius":21.5,"timestamp_ms":1790000000000}}"#)
        };
        assert!(reading(with("sensor-1").as_bytes()).is_ok());
        assert!(reading(with("\\u001b[2J").as_bytes()).is_err());
        assert!(reading(b"21.5").is_err());
        assert!(reading(b"").is_err());
    }

    #[test]
    fn a_commanded_interval_has_bounds() {
        assert!(interval("1ms").is_ok() && interval("24h").is_ok());
        assert!(interval("0s").is_err() && interval("999us").is_err() && interval("25h").is_err());
    }

    #[test]
    fn a_command_is_obeyed_within_bounds() {
        let half_a_second = command(br#"{"interval_ms": 500}"#).ok();
        assert_eq!(half_a_second, Some(Duration::from_millis(500)));
        for text in ["", "500", "[500]", r#"{"interval_ms": 0}"#, r#"{"interval_ms": -1}"#] {
            assert!(command(text.as_bytes()).is_err(), "{text}");
        }
        assert!(command(format!(r#"{{"interval_ms": {}}}"#, u64::MAX).as_bytes()).is_err());
    }
}
