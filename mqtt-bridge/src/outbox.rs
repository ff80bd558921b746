//! Readings that may have to be sent again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Reading;

/// For so long a reading is kept after the broker has acknowledged it.
///
/// PUBACK does not wait for a stream that captures the subject. A broker that dies in the moment
/// after it takes along what it has acknowledged and not stored; a busy one was seen to need ten
/// milliseconds.
const KEEP: Duration = Duration::from_millis(500);
/// And no more than so many.
const KEEP_AT_MOST: usize = 10_000;

/// What a sensor has sent and wants acknowledged, in the order in which the broker acknowledges it.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Sent, and not acknowledged on this connection.
    waiting: VecDeque<Reading>,
    /// How many of these, the first ones, were acknowledged on a connection before.
    again: usize,
    /// Acknowledged a moment ago.
    kept: VecDeque<(Instant, Reading)>,
}

impl Outbox {
    /// So many fit where the sensor never has more than `in_flight` new ones on their way.
    #[must_use]
    pub fn capacity(in_flight: usize) -> usize {
        KEEP_AT_MOST + in_flight
    }

    /// Adds a reading that is sent.
    pub fn push(&mut self, reading: Reading) {
        self.waiting.push_back(reading);
    }

    /// How many are on their way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether all are acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many were never acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.waiting.len() - self.again
    }

    /// The oldest one is acknowledged: says which, where it is for the first time.
    pub fn acknowledge(&mut self, now: Instant) -> Option<&Reading> {
        let reading = self.waiting.pop_front()?;
        let is_first = self.again == 0;
        self.again = self.again.saturating_sub(1);
        while self.kept.len() >= KEEP_AT_MOST
            || (self.kept.front()).is_some_and(|(since, _)| now.duration_since(*since) > KEEP)
        {
            self.kept.pop_front();
        }
        self.kept.push_back((now, reading));
        let (_, reading) = self.kept.back()?;
        is_first.then_some(reading)
    }

    /// The connection is lost: what was acknowledged just before is on its way again, too.
    pub fn start_over(&mut self, now: Instant) {
        for (since, reading) in self.kept.drain(..).rev() {
            if now.duration_since(since) <= KEEP {
                self.waiting.push_front(reading);
                self.again += 1;
            }
        }
    }

    /// What is to be sent on a new connection, in this order.
    pub fn waiting(&self) -> impl Iterator<Item = &Reading> {
        self.waiting.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(seqs: impl IntoIterator<Item = u64>) -> Outbox {
        let mut outbox = Outbox::default();
        for seq in seqs {
            outbox.push(Reading {
                sensor_id: "a".into(),
                seq,
                celsius: 21.5,
                timestamp_ms: 1_000,
            });
        }
        outbox
    }

    fn seqs(outbox: &Outbox) -> Vec<u64> {
        outbox.waiting().map(|reading| reading.seq).collect()
    }

    #[test]
    fn what_was_acknowledged_just_before_the_loss_is_sent_again() {
        let mut outbox = outbox(1..=5);
        let start = Instant::now();
        assert_eq!(
            outbox.acknowledge(start).map(|reading| reading.seq),
            Some(1)
        );
        let later = start + KEEP;
        assert_eq!(
            outbox.acknowledge(later).map(|reading| reading.seq),
            Some(2)
        );
        assert_eq!(
            outbox.acknowledge(later).map(|reading| reading.seq),
            Some(3)
        );
        outbox.start_over(later + KEEP / 2);
        assert_eq!(seqs(&outbox), [2, 3, 4, 5]);
        assert_eq!((outbox.len(), outbox.unacknowledged()), (4, 2));
        // Once more, in the middle of it.
        assert!(outbox.acknowledge(later + KEEP).is_none());
        outbox.start_over(later + KEEP);
        assert_eq!(seqs(&outbox), [2, 3, 4, 5]);
        assert_eq!(outbox.unacknowledged(), 2);
        // An acknowledgement is told once.
        let told = [(); 4].map(|()| outbox.acknowledge(later + KEEP).map(|reading| reading.seq));
        assert_eq!(told, [None, None, Some(4), Some(5)]);
        assert!(outbox.is_empty() && outbox.acknowledge(later).is_none());
    }

    #[test]
    fn the_memory_is_bounded() {
        let many = 3 * KEEP_AT_MOST as u64;
        let mut outbox = outbox(1..=many);
        let now = Instant::now();
        while outbox.acknowledge(now).is_some() {}
        outbox.start_over(now);
        assert_eq!(outbox.len(), KEEP_AT_MOST);
        assert_eq!(seqs(&outbox).last(), Some(&many));
    }
}
