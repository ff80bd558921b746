//! Readings that may have to be sent again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Reading;

/// A reading is kept for this long after the broker has acknowledged it.
///
/// PUBACK does not wait for a stream that captures the subject. A broker that dies right after it
/// takes with it what it has acknowledged and not stored; a busy one was seen to need ten
/// milliseconds.
const KEEP: Duration = Duration::from_millis(500);
/// And no more than so many.
const KEEP_AT_MOST: usize = 10_000;

/// What a sensor has to send and wants acknowledged, in the order in which it is sent and
/// acknowledged.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Not acknowledged on this connection.
    waiting: VecDeque<Reading>,
    /// How many of these, the first ones, were sent on this connection.
    sent: usize,
    /// How many of these, the first ones, were acknowledged on a connection before.
    again: usize,
    /// Acknowledged a moment ago.
    kept: VecDeque<(Instant, Reading)>,
}

impl Outbox {
    /// Adds readings.
    pub fn extend(&mut self, readings: impl IntoIterator<Item = Reading>) {
        self.waiting.extend(readings);
    }

    /// How many are not acknowledged.
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

    /// What is to be sent now, where no more than `in_flight` are to be on their way: all of it
    /// counts as sent.
    pub fn send(&mut self, in_flight: usize) -> impl Iterator<Item = &Reading> {
        let before = self.sent;
        self.sent = self.waiting.len().min(in_flight).max(before);
        self.waiting.range(before..self.sent)
    }

    /// The oldest one is acknowledged: says which, where it is for the first time.
    pub fn acknowledge(&mut self, now: Instant) -> Option<&Reading> {
        let reading = self.waiting.pop_front()?;
        let is_first = self.again == 0;
        self.sent = self.sent.saturating_sub(1);
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

    /// There is another connection: nothing was sent on it, and what was acknowledged just before
    /// the last one broke has to be sent again, too.
    pub fn start_over(&mut self, now: Instant) {
        for (since, reading) in self.kept.drain(..).rev() {
            if now.duration_since(since) <= KEEP {
                self.waiting.push_front(reading);
                self.again += 1;
            }
        }
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(seqs: impl IntoIterator<Item = u64>) -> Outbox {
        let mut outbox = Outbox::default();
        outbox.extend(seqs.into_iter().map(|seq| Reading {
            sensor_id: "a".into(),
            seq,
            celsius: 21.5,
            timestamp_ms: 1_000,
        }));
        outbox
    }

    fn sent(outbox: &mut Outbox, in_flight: usize) -> Vec<u64> {
        outbox.send(in_flight).map(|reading| reading.seq).collect()
    }

    fn acknowledged(outbox: &mut Outbox, now: Instant) -> Option<u64> {
        outbox.acknowledge(now).map(|reading| reading.seq)
    }

    #[test]
    fn no_more_are_on_their_way_than_may_be() {
        let mut outbox = outbox(1..=5);
        let now = Instant::now();
        assert_eq!(sent(&mut outbox, 3), [1, 2, 3]);
        assert_eq!(sent(&mut outbox, 3), [0; 0]);
        assert_eq!(acknowledged(&mut outbox, now), Some(1));
        assert_eq!(sent(&mut outbox, 3), [4]);
        assert_eq!(sent(&mut outbox, 10), [5]);
    }

    #[test]
    fn what_was_acknowledged_just_before_the_loss_is_sent_again() {
        let mut outbox = outbox(1..=5);
        let start = Instant::now();
        assert_eq!(sent(&mut outbox, 10).len(), 5);
        assert_eq!(acknowledged(&mut outbox, start), Some(1));
        let later = start + KEEP;
        assert_eq!(acknowledged(&mut outbox, later), Some(2));
        assert_eq!(acknowledged(&mut outbox, later), Some(3));
        outbox.start_over(later + KEEP / 2);
        assert_eq!((outbox.len(), outbox.unacknowledged()), (4, 2));
        assert_eq!(sent(&mut outbox, 10), [2, 3, 4, 5]);
        // Once more, in the middle of it.
        assert_eq!(acknowledged(&mut outbox, later + KEEP), None);
        outbox.start_over(later + KEEP);
        assert_eq!(sent(&mut outbox, 10), [2, 3, 4, 5]);
        assert_eq!(outbox.unacknowledged(), 2);
        // An acknowledgement is told once.
        let told = [(); 4].map(|()| acknowledged(&mut outbox, later + KEEP));
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
        assert_eq!(sent(&mut outbox, KEEP_AT_MOST).last(), Some(&many));
    }
}
