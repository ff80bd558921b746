//! When the next reading is due.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Ticks at an interval, or all the time.
#[derive(Debug)]
pub struct Pace(Option<Interval>);

impl Pace {
    /// The first tick is at `first`, the others follow after `pause` each; where that is zero, each
    /// of them comes at once.
    #[must_use]
    pub fn new(first: Instant, pause: Duration) -> Self {
        Self((!pause.is_zero()).then(|| {
            let mut interval = interval_at(first, pause);
            // No burst after a wait: a thermometer cannot measure the past.
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// Waits for the next tick. May be cancelled.
    pub async fn tick(&mut self) {
        if let Some(interval) = &mut self.0 {
            interval.tick().await;
        }
    }
}
