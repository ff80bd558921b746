//! Who changed what: a bucket notes what was written and when, but not by whom. The ids of our own
//! messages say that.

use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::kv::{Entry, Operation};

use crate::switch::{read, text};

/// The id of one write, and nobody else's: user, process, time.
#[must_use]
pub fn new_id() -> String {
    let user = std::env::var("USER").unwrap_or_default();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    id(&user, process::id(), now.as_nanos())
}

fn id(user: &str, process: u32, time: u128) -> String {
    let user: String = user
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(32)
        .collect();
    let user = if user.is_empty() { "unknown" } else { &user };
    format!("{user}-{process}-{time}")
}

/// The id with which a message was written, if it has one.
#[must_use]
pub fn author(headers: &HeaderMap) -> Option<&str> {
    headers.get(NATS_MESSAGE_ID).map(AsRef::as_ref)
}

/// A change in one line: which, when, what, by whom.
#[must_use]
pub fn tell(change: &Entry, author: Option<&str>) -> String {
    let what = match change.operation {
        Operation::Put => read(change).map_or_else(|_| text(change), |on| on.to_string()),
        Operation::Delete => "deleted".into(),
        Operation::Purge => "purged".into(),
    };
    let when = humantime::format_rfc3339_millis(change.created.into());
    let who = author.unwrap_or("somebody");
    format!("#{} {when} {what} by {who}", change.revision)
}

#[cfg(test)]
mod tests {
    use async_nats::datetime::from_nanos;

    use super::*;
    use crate::{BUCKET, KEY};

    #[test]
    fn an_id_is_plain_text_whoever_the_user_is() {
        assert_eq!(id("alice", 7, 42), "alice-7-42");
        assert_eq!(id("\r\nNats-Rollup: all", 7, 42), "NatsRollupall-7-42");
        assert_eq!(id("\u{e9}", 7, 42), "unknown-7-42");
        assert_eq!(id(&"x".repeat(100), 7, 42).len(), 37);
    }

    #[test]
    fn a_change_is_one_line() -> Result<(), async_nats::Error> {
        let mut change = Entry {
            bucket: BUCKET.into(),
            key: KEY.into(),
            value: "true".into(),
            revision: 3,
            delta: 0,
            created: from_nanos(1_790_000_000_123_456_789)?,
            operation: Operation::Put,
            seen_current: true,
        };
        let line = tell(&change, Some("alice-7-42"));
        assert_eq!(line, "#3 2026-09-21T14:13:20.123Z true by alice-7-42");
        change.value = "a\nb".into();
        assert!(tell(&change, None).ends_with(r#"Z "a?b" by somebody"#));
        change.operation = Operation::Purge;
        assert!(tell(&change, None).ends_with("Z purged by somebody"));
        Ok(())
    }
}
