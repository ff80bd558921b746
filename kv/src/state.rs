//! What an entry says about the switch.

use async_nats::jetstream::kv::{Entry, Operation};

/// Reads an entry: on or off, or why it says neither, which means off. Anybody may write to a
/// bucket, and any bytes.
///
/// # Errors
///
/// What the entry is instead.
pub fn read(entry: &Entry) -> Result<bool, String> {
    match (entry.operation, &entry.value[..]) {
        (Operation::Put, b"true") => Ok(true),
        (Operation::Put, b"false") => Ok(false),
        (Operation::Put, _) => Err(format!("holds {}, neither true nor false", text(entry))),
        (Operation::Delete, _) => Err("was deleted".into()),
        (Operation::Purge, _) => Err("was purged".into()),
    }
}

/// Whether the entry is one that somebody waits for: a value, or a marker that there is none
/// any more, but no rubbish.
#[must_use]
pub fn counts(entry: &Entry) -> bool {
    read(entry).is_ok() || entry.operation != Operation::Put
}

/// In one word.
#[must_use]
pub fn word(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// The value as something that can be printed: short, on one line, without control characters.
#[must_use]
pub fn text(entry: &Entry) -> String {
    let text = String::from_utf8_lossy(&entry.value);
    format!("\"{}\"", common::printable(&text))
}

#[cfg(test)]
mod tests {
    use async_nats::datetime::from_nanos;

    use super::*;
    use crate::{BUCKET, KEY};

    #[test]
    fn only_true_and_false_are_values_and_only_where_they_were_put() -> Result<(), async_nats::Error>
    {
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
        assert_eq!(read(&entry), Ok(true));
        assert!(counts(&entry));
        entry.operation = Operation::Delete;
        assert!(read(&entry).is_err() && counts(&entry));
        entry.operation = Operation::Put;
        for value in ["", "True", "true\n", "falsefalse"] {
            entry.value = value.into();
            assert!(read(&entry).is_err() && !counts(&entry), "{value:?}");
        }
        entry.value = "false".into();
        assert_eq!(read(&entry), Ok(false));
        // Whatever is in it, it can be shown.
        entry.value = vec![0xff; 500].into();
        assert_eq!(text(&entry).chars().count(), 122);
        entry.value = "a\u{1b}\nb".into();
        assert_eq!(text(&entry), r#""a??b""#);
        Ok(())
    }
}
