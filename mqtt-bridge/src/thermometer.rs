//! A simulated thermometer. Replace it with a real one.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::Reading;

/// Takes a reading.
#[must_use]
pub fn measure(sensor_id: &str, seq: u64) -> Reading {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let timestamp_ms = u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
    Reading { sensor_id: sensor_id.into(), seq, celsius: celsius(timestamp_ms), timestamp_ms }
}

/// A day that is warmest in the afternoon, and a heater that switches on and off.
#[expect(clippy::cast_precision_loss, reason = "a day has few milliseconds")]
fn celsius(timestamp_ms: u64) -> f64 {
    let turn = |period_s: u64| {
        let period = period_s * 1_000;
        std::f64::consts::TAU * (timestamp_ms % period) as f64 / period as f64
    };
    let celsius = 20.5 - 2.0 * turn(24 * 3_600).cos() + 0.5 * turn(60).sin();
    (celsius * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_temperature_is_plausible() {
        for hour in 0..48 {
            assert!((17.0..=24.0).contains(&celsius(1_790_000_000_000 + hour * 3_600_000)));
        }
    }
}
