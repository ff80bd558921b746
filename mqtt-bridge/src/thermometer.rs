//! A thermometer for those who have none.

/// A day that is warmest in the afternoon, and a heating that goes on and off.
#[expect(clippy::cast_precision_loss, reason = "a day has few milliseconds")]
#[must_use]
pub fn celsius(timestamp_ms: u64) -> f64 {
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
