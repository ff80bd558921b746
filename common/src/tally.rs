//! The last line of a bounded run: how many of what, and how fast.

use std::time::{Duration, Instant};

/// Counts what a receiver takes, and the time from the first one to the last.
#[derive(Debug, Default)]
pub struct Tally {
    count: u64,
    first: Option<Instant>,
    elapsed: Duration,
}

impl Tally {
    /// Counts one.
    pub fn add(&mut self) {
        self.count += 1;
        self.elapsed = self.first.get_or_insert_with(Instant::now).elapsed();
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many are left until `limit`; `u64::MAX` without a limit.
    #[must_use]
    pub fn left(&self, limit: Option<u64>) -> u64 {
        limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.count))
    }

    /// The line for what was counted, see [`summary`].
    #[must_use]
    pub fn summary(&self, noun: &str) -> String {
        summary(self.count, noun, self.elapsed)
    }
}

/// Count, noun, time and rate in one line, e.g. `1000000 messages in 0.412 s (2427184/s)`.
#[must_use]
pub fn summary(count: u64, noun: &str, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate is shown to seven digits or so")]
    let rate = if count == 0 { 0.0 } else { count as f64 / seconds.max(1e-9) };
    format!("{count} {noun} in {seconds:.3} s ({rate:.0}/s)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_has_plain_digits() {
        let line = summary(1_000_000, "messages", Duration::from_millis(412));
        assert_eq!(line, "1000000 messages in 0.412 s (2427184/s)");
        assert_eq!(summary(0, "orders", Duration::ZERO), "0 orders in 0.000 s (0/s)");
    }
}
