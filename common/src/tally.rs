//! How many of what, and how fast: the last line of a bounded run.

use std::time::{Duration, Instant};

/// Counts what a receiver takes. Its clock starts at the first one and stops at the last: before
/// and after, it waits for others.
#[derive(Debug, Default)]
pub struct Tally {
    count: u64,
    first: Option<Instant>,
    elapsed: Duration,
}

impl Tally {
    /// One more.
    pub fn add(&mut self) {
        self.count += 1;
        self.elapsed = self.first.get_or_insert_with(Instant::now).elapsed();
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many are left until `limit`; no end of them where there is none.
    #[must_use]
    pub fn left(&self, limit: Option<u64>) -> u64 {
        limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.count))
    }

    /// The line: see [`summary`].
    #[must_use]
    pub fn summary(&self, noun: &str) -> String {
        summary(self.count, noun, self.elapsed)
    }
}

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
