//! When the next reading is due.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// So many readings are due at once where there is no pause between them.
const BATCH: usize = 64;

/// Ticks at an interval, or all the time.
#[derive(Debug)]
pub struct Pace {
    pause: Duration,
    ticks: Option<Interval>,
}

impl Pace {
    /// The first tick is at `first`, the others follow after `pause` each; where that is zero, each
    /// of them comes at once.
    #[must_use]
    pub fn new(first: Instant, pause: Duration) -> Self {
        let ticks = (!pause.is_zero()).then(|| {
            let mut ticks = interval_at(first, pause);
            // No burst after a wait: a thermometer cannot measure the past.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        Self { pause, ticks }
    }

    /// Waits for the next tick, and says how many readings are due: one, or many where there is no
    /// pause between them. May be cancelled.
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

/// The pause, as people write it.
impl fmt::Display for Pace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.pause).fmt(formatter)
    }
}
