//! Recognising repetitions.

use std::collections::HashSet;
use std::hash::Hash;
use std::mem;

/// Remembers the ids of the last messages: with delivery *at least once*, some messages come twice.
///
/// The memory is bounded. A repetition that comes later than that is not recognised.
#[derive(Debug)]
pub struct Dedup<T> {
    size: usize,
    newer: HashSet<T>,
    older: HashSet<T>,
}

impl<T: Eq + Hash> Dedup<T> {
    /// Remembers at least the last `size` ids, and at most twice as many.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self { size, newer: HashSet::new(), older: HashSet::new() }
    }

    /// Remembers an id, and returns whether it is new, like [`HashSet::insert`].
    pub fn insert(&mut self, id: T) -> bool {
        if self.newer.contains(&id) || self.older.contains(&id) {
            return false;
        }
        if self.newer.len() == self.size {
            self.older = mem::take(&mut self.newer);
        }
        self.newer.insert(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_is_recognised_and_memory_is_bounded() {
        let mut dedup = Dedup::new(100);
        for name in 0..1_000_u32 {
            assert!(dedup.insert(name));
            assert!(!dedup.insert(name.saturating_sub(99)));
            assert!(dedup.newer.len() + dedup.older.len() <= 200);
        }
    }
}
