//! Readings that may have to be sent again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Reading;

/// At most so many acknowledged readings are kept to be sent again.
const MAX_ACKNOWLEDGED: usize = 10_000;

/// The readings of a sensor from being measured until it can forget them, in the order in which they
/// are sent and acknowledged.
///
/// A sensor cannot forget a reading at its PUBACK. The broker acknowledges before a stream that
/// captures the subject has stored the reading: a busy one was seen to need ten milliseconds. If it
/// dies in between, the reading is lost although it was acknowledged. So the readings acknowledged
/// last are kept, and sent again on the next connection.
#[derive(Debug)]
pub struct Outbox {
    max_in_flight: usize,
    keep_acknowledged: Duration,
    /// Not acknowledged on this connection.
    waiting: VecDeque<Reading>,
    /// How many of `waiting`, from the front, were sent on this connection.
    in_flight: usize,
    /// How many of `waiting`, from the front, were acknowledged on an earlier connection.
    repeated: usize,
    /// Acknowledged last, and when.
    acknowledged: VecDeque<(Instant, Reading)>,
}

impl Outbox {
    /// An empty outbox. At most `max_in_flight` readings are sent and not acknowledged. A reading is
    /// kept until an acknowledgement comes that is later than its own by more than
    /// `keep_acknowledged`: the broker was alive so long after it.
    #[must_use]
    pub fn new(max_in_flight: usize, keep_acknowledged: Duration) -> Self {
        Self {
            max_in_flight,
            keep_acknowledged,
            waiting: VecDeque::new(),
            in_flight: 0,
            repeated: 0,
            acknowledged: VecDeque::new(),
        }
    }

    /// How many readings can be added and sent at once.
    #[must_use]
    pub fn room(&self) -> usize {
        self.max_in_flight.saturating_sub(self.waiting.len())
    }

    /// Whether all readings are acknowledged on this connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many readings were never acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.waiting.len() - self.repeated
    }

    /// Adds readings.
    pub fn extend(&mut self, readings: impl IntoIterator<Item = Reading>) {
        self.waiting.extend(readings);
    }

    /// Returns the readings to send now. They count as in flight from then on.
    pub fn send(&mut self) -> impl Iterator<Item = &Reading> {
        let before = self.in_flight;
        self.in_flight = self.waiting.len().min(self.max_in_flight).max(before);
        self.waiting.range(before..self.in_flight)
    }

    /// Notes that the oldest reading in flight is acknowledged. Returns it if that is its first
    /// acknowledgement.
    pub fn acknowledge(&mut self, now: Instant) -> Option<&Reading> {
        let reading = self.waiting.pop_front()?;
        let is_first = self.repeated == 0;
        self.in_flight = self.in_flight.saturating_sub(1);
        self.repeated = self.repeated.saturating_sub(1);
        let is_old = |since: Instant| now.duration_since(since) > self.keep_acknowledged;
        while self.acknowledged.len() >= MAX_ACKNOWLEDGED
            || (self.acknowledged.front()).is_some_and(|(since, _)| is_old(*since))
        {
            self.acknowledged.pop_front();
        }
        self.acknowledged.push_back((now, reading));
        let (_, reading) = self.acknowledged.back()?;
        is_first.then_some(reading)
    }

    /// Notes that there is a new connection, and nothing was sent on it yet. The readings
    /// acknowledged last are sent again, first of all.
    pub fn reconnected(&mut self) {
        self.repeated += self.acknowledged.len();
        for (_, reading) in self.acknowledged.drain(..).rev() {
            self.waiting.push_front(reading);
        }
        self.in_flight = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_millis(500);

    fn outbox(max_in_flight: usize, seqs: impl IntoIterator<Item = u64>) -> Outbox {
        let mut outbox = Outbox::new(max_in_flight, KEEP);
        outbox.extend(seqs.into_iter().map(|seq| Reading {
            sensor_id: "a".into(),
            seq,
            celsius: 21.5,
            timestamp_ms: 1_000,
        }));
        outbox
    }

    fn sent(outbox: &mut Outbox) -> Vec<u64> {
        outbox.send().map(|reading| reading.seq).collect()
    }

    fn acknowledged(outbox: &mut Outbox, now: Instant) -> Option<u64> {
        outbox.acknowledge(now).map(|reading| reading.seq)
    }

    #[test]
    fn readings_in_flight_are_bounded() {
        let mut outbox = outbox(3, 1..=5);
        let now = Instant::now();
        assert_eq!(outbox.room(), 0);
        assert_eq!(sent(&mut outbox), [1, 2, 3]);
        assert_eq!(sent(&mut outbox), [0; 0]);
        assert_eq!(acknowledged(&mut outbox, now), Some(1));
        assert_eq!(sent(&mut outbox), [4]);
        assert_eq!(acknowledged(&mut outbox, now), Some(2));
        assert_eq!(acknowledged(&mut outbox, now), Some(3));
        assert_eq!(outbox.room(), 1);
    }

    #[test]
    fn readings_acknowledged_just_before_the_connection_broke_are_sent_again() {
        let mut outbox = outbox(10, 1..=5);
        let start = Instant::now();
        assert_eq!(sent(&mut outbox).len(), 5);
        assert_eq!(acknowledged(&mut outbox, start), Some(1));
        let later = start + KEEP * 2;
        assert_eq!(acknowledged(&mut outbox, later), Some(2));
        assert_eq!(acknowledged(&mut outbox, later), Some(3));
        outbox.reconnected();
        assert_eq!(outbox.unacknowledged(), 2);
        assert_eq!(sent(&mut outbox), [2, 3, 4, 5]);
        // Once more, in the middle of it.
        assert_eq!(acknowledged(&mut outbox, later + KEEP), None);
        outbox.reconnected();
        assert_eq!(sent(&mut outbox), [2, 3, 4, 5]);
        assert_eq!(outbox.unacknowledged(), 2);
        // Only the first acknowledgement of a reading is reported.
        let reported = [(); 4].map(|()| acknowledged(&mut outbox, later + KEEP));
        assert_eq!(reported, [None, None, Some(4), Some(5)]);
        assert!(outbox.is_empty() && outbox.acknowledge(later).is_none());
    }

    #[test]
    fn the_memory_is_bounded() {
        let many = 3 * MAX_ACKNOWLEDGED as u64;
        let mut outbox = outbox(MAX_ACKNOWLEDGED, 1..=many);
        let now = Instant::now();
        while outbox.acknowledge(now).is_some() {}
        outbox.reconnected();
        assert_eq!(outbox.unacknowledged(), 0);
        let seqs = sent(&mut outbox);
        assert_eq!((seqs.len(), seqs.last()), (MAX_ACKNOWLEDGED, Some(&many)));
    }
}
