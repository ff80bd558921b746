//! When the next reading is due.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// How many readings are due at a time if the interval is zero. They go out in one write.
const BATCH: usize = 64;

/// Ticks at an interval, or without a pause.
#[derive(Debug)]
pub struct Ticker {
    interval: Duration,
    ticks: Option<Interval>,
}

impl Ticker {
    /// Ticks at `first` and then after every `interval`. If that is zero, each tick comes at once.
    #[must_use]
    pub fn new(first: Instant, interval: Duration) -> Self {
        let ticks = (!interval.is_zero()).then(|| {
            let mut ticks = interval_at(first, interval);
            // No burst after an outage: a thermometer cannot measure the past.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        Self { interval, ticks }
    }

    /// Waits for the next tick, and returns how many readings are due: one, or a batch if the
    /// interval is zero. Cancel safe.
    pub async fn tick(&mut self) -> usize {
        match &mut self.ticks {
            Some(ticks) => {
                ticks.tick().await;
                1
            }
            None => BATCH,
        }
    }
}

/// The interval, such as `1s`.
impl fmt::Display for Ticker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.interval).fmt(formatter)
    }
}
