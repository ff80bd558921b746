//! Recognising what comes again.

use std::collections::HashSet;

/// The order ids seen last. Not all of them: a consumer runs on, and its memory is finite.
#[derive(Debug, Default)]
pub struct Recent {
    newer: HashSet<String>,
    older: HashSet<String>,
}

impl Recent {
    /// How many are remembered, and up to twice as many: far more than can be on their way.
    const SIZE: usize = 50_000;

    /// Notes it, and says whether it was not known.
    pub fn is_new(&mut self, order_id: &str) -> bool {
        if self.newer.contains(order_id) || self.older.contains(order_id) {
            return false;
        }
        if self.newer.len() == Self::SIZE {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(order_id.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_is_recognised_and_memory_is_bounded() {
        let mut recent = Recent::default();
        for id in 0..3 * Recent::SIZE {
            assert!(recent.is_new(&id.to_string()));
            assert!(!recent.is_new(&id.saturating_sub(Recent::SIZE / 2).to_string()));
            assert!(recent.newer.len() + recent.older.len() <= 2 * Recent::SIZE);
        }
    }
}
