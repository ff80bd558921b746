//! Names for workers.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// A name such as `worker-bakodi`: one of half a million, easy to tell from others.
#[must_use]
pub fn random_name() -> String {
    name(RandomState::new().hash_one(()))
}

fn name(random: u64) -> String {
    let alphabets = ["bdfghjklmnprstvz", "aeiou"].into_iter().cycle().take(6);
    let letters = alphabets
        .zip(random.to_le_bytes())
        .filter_map(|(alphabet, byte)| alphabet.chars().nth(usize::from(byte) % alphabet.len()));
    String::from("worker-") + &letters.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_read_aloud() {
        assert_eq!(name(0), "worker-bababa");
        assert_eq!(name(u64::MAX), "worker-zazaza");
    }
}
