//! What an entry says about the switch.

use std::fmt;

use async_nats::jetstream::kv::{Entry, Operation};

/// The state of the switch. All but [`State::On`] mean off.
#[derive(Debug, PartialEq)]
pub enum State {
    /// The value is `true`.
    On,
    /// The value is `false`.
    Off,
    /// The key was deleted: its history is still there.
    Deleted,
    /// The key was purged: its history is gone, too.
    Purged,
    /// The value is neither `true` nor `false`, but this. Any program can write any bytes.
    Invalid(String),
}

impl State {
    /// Reads an entry.
    #[must_use]
    pub fn of(entry: &Entry) -> Self {
        match (entry.operation, &entry.value[..]) {
            (Operation::Put, b"true") => Self::On,
            (Operation::Put, b"false") => Self::Off,
            (Operation::Put, other) => {
                Self::Invalid(common::printable(&String::from_utf8_lossy(other)))
            }
            (Operation::Delete, _) => Self::Deleted,
            (Operation::Purge, _) => Self::Purged,
        }
    }

    /// Why the switch is off, if no program wrote `false`.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::On | Self::Off => None,
            Self::Deleted => Some("was deleted".into()),
            Self::Purged => Some("was purged".into()),
            Self::Invalid(value) => Some(format!("holds \"{value}\", neither true nor false")),
        }
    }
}

/// `on` or `off`.
impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(on_or_off(*self == Self::On))
    }
}

/// The value in a word.
#[must_use]
pub fn on_or_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use async_nats::datetime::from_nanos;

    use super::*;
    use crate::{BUCKET, KEY};

    #[test]
    fn only_true_and_false_are_values_and_only_if_they_were_put() -> Result<(), async_nats::Error> {
        let mut entry = Entry {
            bucket: BUCKET.into(),
            key: KEY.into(),
            value: "true".into(),
            revision: 1,
            delta: 0,
            created: from_nanos(0)?,
            operation: Operation::Put,
            seen_current: true,
        };
        assert_eq!(State::of(&entry), State::On);
        assert_eq!(State::of(&entry).to_string(), "on");
        entry.operation = Operation::Delete;
        assert_eq!(State::of(&entry), State::Deleted);
        entry.operation = Operation::Purge;
        assert_eq!(State::of(&entry), State::Purged);
        entry.operation = Operation::Put;
        entry.value = "false".into();
        assert_eq!(State::of(&entry), State::Off);
        for value in ["", "True", "true\n", "falsefalse"] {
            entry.value = value.into();
            let state = State::of(&entry);
            assert!(matches!(state, State::Invalid(_)), "{value:?}");
            assert_eq!(state.to_string(), "off");
        }
        // Whatever the value is, it can be printed.
        entry.value = vec![0xff; 500].into();
        assert_eq!(State::of(&entry), State::Invalid("\u{fffd}".repeat(120)));
        entry.value = "a\u{1b}\nb".into();
        assert_eq!(State::of(&entry), State::Invalid("a??b".into()));
        Ok(())
    }
}
