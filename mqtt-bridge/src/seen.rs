//! Which readings are recorded already.

use std::collections::{HashSet, VecDeque};

use crate::Reading;

/// Remembers the last readings, so that a repetition is recognised.
///
/// A sensor sends again what the broker has not acknowledged, and so does the stream what the
/// recorder has not: soon, or never. The memory needs to reach back that far only, and is bounded.
///
/// A sensor that is started again counts from 1 again. What it measures then is not measured at
/// the same time as before, so the time is a part of the reading's name.
#[derive(Debug)]
pub struct Seen {
    capacity: usize,
    known: HashSet<Name>,
    /// The same, oldest first.
    order: VecDeque<Name>,
}

/// Who, which, when.
type Name = (String, u64, u64);

impl Seen {
    /// Remembers as many readings as `capacity`.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            known: HashSet::new(),
            order: VecDeque::new(),
        }
    }

    /// Remembers a reading, and says whether it is new.
    pub fn is_new(&mut self, reading: &Reading) -> bool {
        let name = (reading.sensor_id.clone(), reading.seq, reading.timestamp_ms);
        let is_new = self.known.insert(name.clone());
        if is_new {
            self.order.push_back(name);
            if self.order.len() > self.capacity
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(sensor_id: &str, seq: u64, timestamp_ms: u64) -> Reading {
        Reading {
            sensor_id: sensor_id.into(),
            seq,
            celsius: 21.5,
            timestamp_ms,
        }
    }

    #[test]
    fn a_repetition_is_recognised_and_a_sensor_started_again_is_not_one() {
        let mut seen = Seen::new(100);
        assert!(seen.is_new(&reading("a", 1, 1_000)));
        assert!(seen.is_new(&reading("a", 2, 1_000)));
        assert!(!seen.is_new(&reading("a", 1, 1_000)));
        assert!(seen.is_new(&reading("b", 1, 1_000)));
        assert!(seen.is_new(&reading("a", 1, 2_000)));
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut seen = Seen::new(2);
        for seq in 1..=1_000 {
            assert!(seen.is_new(&reading("a", seq, seq)));
        }
        assert_eq!((seen.known.len(), seen.order.len()), (2, 2));
        assert!(!seen.is_new(&reading("a", 1_000, 1_000)));
        assert!(seen.is_new(&reading("a", 998, 998)));
    }
}
