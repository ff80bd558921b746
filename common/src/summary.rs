//! The last line of a bounded run.

use std::time::Duration;

/// How many of what in which time, e.g. `1000000 messages in 0.412 s (2427184/s)`.
#[must_use]
pub fn summary(count: u64, noun: &str, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate is shown to seven digits or so"
    )]
    let rate = if count == 0 {
        0.0
    } else {
        count as f64 / seconds.max(1e-9)
    };
    format!("{count} {noun} in {seconds:.3} s ({rate:.0}/s)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_has_plain_digits() {
        let line = summary(1_000_000, "messages", Duration::from_millis(412));
        assert_eq!(line, "1000000 messages in 0.412 s (2427184/s)");
        assert_eq!(
            summary(0, "orders", Duration::ZERO),
            "0 orders in 0.000 s (0/s)"
        );
    }
}
