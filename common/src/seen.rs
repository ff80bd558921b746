//! Recognising what comes again.

use std::collections::HashSet;
use std::hash::Hash;
use std::mem;

/// Remembers what was seen last: whoever is promised *at least once* gets some of it twice.
///
/// Not all of it, for a program runs on, and its memory is finite. A repetition comes soon, or
/// never.
#[derive(Debug)]
pub struct Seen<T> {
    size: usize,
    newer: HashSet<T>,
    older: HashSet<T>,
}

impl<T: Eq + Hash> Seen<T> {
    /// Remembers the last `size`, and up to twice as many.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self {
            size,
            newer: HashSet::new(),
            older: HashSet::new(),
        }
    }

    /// Remembers it, and says whether it is new, as [`HashSet::insert`] does.
    pub fn insert(&mut self, name: T) -> bool {
        if self.newer.contains(&name) || self.older.contains(&name) {
            return false;
        }
        if self.newer.len() == self.size {
            self.older = mem::take(&mut self.newer);
        }
        self.newer.insert(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_is_recognised_and_memory_is_bounded() {
        let mut seen = Seen::new(100);
        for name in 0..1_000_u32 {
            assert!(seen.insert(name));
            assert!(!seen.insert(name.saturating_sub(99)));
            assert!(seen.newer.len() + seen.older.len() <= 200);
        }
    }
}
