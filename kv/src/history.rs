//! Who changed what, and when.
//!
//! A bucket stores what was written and when, but not by whom. The message ids of `config-admin` say
//! that.

use std::process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::kv::Entry;
use common::jetstream::{Failure, Refused, failure, retry};
use common::{Connection, Stopped};
use futures::StreamExt;
use tokio::time::timeout;

use crate::{BUCKET, KEY, State, jetstream};

/// Time that nats-server has to send the next entry.
const ENTRY_TIMEOUT: Duration = Duration::from_secs(10);

/// The changes of the switch that the bucket still has, oldest first, each in one line.
///
/// # Errors
///
/// If there is no bucket, or nats-server does not answer. [`Stopped`] if the program is told to stop.
pub async fn history(nats: &Connection) -> Result<Vec<String>> {
    tokio::select! {
        lines = read_history(nats) => lines,
        () = nats.stop().cancelled() => {
            nats.permitted()?;
            bail!(Stopped)
        }
    }
}

async fn read_history(nats: &Connection) -> Result<Vec<String>> {
    let jetstream = jetstream(nats);
    let bucket = retry(nats, &[Failure::Unanswered], ENTRY_TIMEOUT, async || {
        match jetstream.get_key_value(BUCKET).await {
            Err(error) if failure(&error) == Failure::Missing => bail!(Refused::because(format!(
                "there is no bucket {BUCKET}; `config-admin set true` creates it"
            ))),
            bucket => Ok(bucket?),
        }
    });
    let bucket = bucket.await?;
    let mut lines = Vec::new();
    let mut entries = bucket.history(KEY).await?;
    while let Some(entry) = timeout(ENTRY_TIMEOUT, entries.next()).await.context("no answer")? {
        let entry = entry?;
        // The library's entry has no headers.
        let message = bucket.stream.get_raw_message(entry.revision).await?;
        lines.push(line(&entry, message_id(&message.headers)));
    }
    Ok(lines)
}

/// One change: its revision, when, what, by whom.
fn line(entry: &Entry, message_id: Option<&str>) -> String {
    let what = match State::of(entry) {
        State::On => "true".into(),
        State::Off => "false".into(),
        State::Deleted => "deleted".into(),
        State::Purged => "purged".into(),
        State::Invalid(value) => format!("\"{value}\""),
    };
    let when = humantime::format_rfc3339_millis(entry.created.into());
    let who = message_id.unwrap_or("unknown");
    format!("#{} {when} {what} by {who}", entry.revision)
}

/// A message id that no other write has: user, process, time.
pub(crate) fn new_message_id() -> String {
    let user = std::env::var("USER").unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format_message_id(&user, process::id(), now.as_nanos())
}

fn format_message_id(user: &str, process: u32, time: u128) -> String {
    let user: String = user.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
    let user = if user.is_empty() { "unknown" } else { &user };
    format!("{user}-{process}-{time}")
}

/// The id that a message was published with, if it has one.
pub(crate) fn message_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(NATS_MESSAGE_ID).map(AsRef::as_ref)
}

#[cfg(test)]
mod tests {
    use async_nats::datetime::from_nanos;
    use async_nats::jetstream::kv::Operation;

    use super::*;

    #[test]
    fn a_message_id_is_plain_text_whatever_the_users_name_is() {
        assert_eq!(format_message_id("alice", 7, 42), "alice-7-42");
        assert_eq!(format_message_id("\r\nNats-Rollup: all", 7, 42), "NatsRollupall-7-42");
        assert_eq!(format_message_id("\u{e9}", 7, 42), "unknown-7-42");
        assert_eq!(format_message_id(&"x".repeat(100), 7, 42).len(), 37);
    }

    #[test]
    fn a_change_is_one_line() -> Result<(), async_nats::Error> {
        let mut entry = Entry {
            bucket: BUCKET.into(),
            key: KEY.into(),
            value: "true".into(),
            revision: 3,
            delta: 0,
            created: from_nanos(1_790_000_000_123_456_789)?,
            operation: Operation::Put,
            seen_current: true,
        };
        let text = line(&entry, Some("alice-7-42"));
        assert_eq!(text, "#3 2026-09-21T14:13:20.123Z true by alice-7-42");
        entry.value = "a\nb".into();
        assert!(line(&entry, None).ends_with(r#"Z "a?b" by unknown"#));
        entry.operation = Operation::Purge;
        assert!(line(&entry, None).ends_with("Z purged by unknown"));
        Ok(())
    }
}
