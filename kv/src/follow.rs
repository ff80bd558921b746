//! A watch that survives its bucket.
//!
//! The client library's watch resumes after an outage at the revision after the last one it saw. It
//! does so in any bucket of that name. A bucket that was deleted and created again counts from 1, so
//! after revision 10 of the old bucket the watch is silent until the new bucket reaches revision 11,
//! and reports no error.

use std::pin::Pin;
use std::time::Duration;

use anyhow::{Error, Result};
use async_nats::datetime::DateTime;
use async_nats::jetstream::kv::{Entry, Store, Watch};
use async_nats::jetstream::{Context, ErrorCode};
use common::Connection;
use common::jetstream::{Failure, code, explain, failure, retry};
use futures::StreamExt;
use tokio::time::sleep;

use crate::jetstream;

/// How often to check that the bucket is still the same: nats-server does not tell a watch that its
/// bucket is gone.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Pause before the next attempt to watch.
const PAUSE: Duration = Duration::from_millis(100);

/// What [`Follow::next`] reports.
#[derive(Debug)]
pub enum Change {
    /// There is no bucket yet. Reported once, at the start; then it waits for the bucket.
    NoBucket,
    /// The bucket is there, and the key has no value yet.
    NoValue,
    /// The value at the start, then each new value; delete and purge markers, too.
    Entry(Entry),
}

/// Follows a key of a bucket: its value now, then every change, whatever happens to nats-server or
/// to the bucket.
///
/// It watches again when the connection was lost, the watch ends or fails, or the bucket is another
/// one: first where the last watch ended, in another bucket at its beginning. No change is skipped
/// that the bucket's history still has.
#[must_use]
pub fn follow(nats: &Connection, bucket: &str, key: &str) -> Follow {
    Follow {
        nats: nats.clone(),
        jetstream: jetstream(nats),
        bucket: bucket.into(),
        key: key.into(),
        position: Position::default(),
        watching: None,
        has_watched: false,
        is_reported: false,
    }
}

/// See [`follow`].
pub struct Follow {
    nats: Connection,
    jetstream: Context,
    bucket: String,
    key: String,
    position: Position,
    watching: Option<Watching>,
    has_watched: bool,
    /// The present reason for not watching was reported.
    is_reported: bool,
}

/// A watch that has begun.
struct Watching {
    entries: Watch,
    /// Resolves when the watch may be silent for ever: see [`watch_is_void`].
    is_void: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Follow {
    /// The next change; none if the program was told to stop.
    ///
    /// # Errors
    ///
    /// If the bucket cannot be watched, and no retry cures that. What the server has denied.
    pub async fn next(&mut self) -> Result<Option<Change>> {
        let stop = self.nats.stop().clone();
        match stop.run_until_cancelled(self.next_change()).await {
            Some(change) => change.map(Some),
            None => self.nats.permitted().map(|()| None),
        }
    }

    async fn next_change(&mut self) -> Result<Change> {
        loop {
            if let Some(watching) = &mut self.watching {
                tokio::select! {
                    biased; // entries that have arrived come first
                    entry = watching.entries.next() => match entry {
                        Some(Ok(entry)) => {
                            self.position.next = Some(entry.revision + 1);
                            return Ok(Change::Entry(entry));
                        }
                        Some(Err(_)) | None => sleep(PAUSE).await,
                    },
                    () = &mut watching.is_void => {}
                }
                self.watching = None;
            }
            match self.watch().await {
                Ok(None) => {}
                Ok(Some(change)) => return Ok(change),
                Err(error) => {
                    if let Some(change) = self.not_watching(error)? {
                        return Ok(change);
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Begins to watch. Reports if there is no value to begin with.
    async fn watch(&mut self) -> Result<Option<Change>> {
        let retry_on = [Failure::Unanswered];
        let (bucket, key) = (&self.bucket, &self.key);
        let open = async || Ok(self.jetstream.get_key_value(bucket).await?);
        let bucket = retry(&self.nats, &retry_on, Duration::MAX, open).await?;

        let info = bucket.stream.cached_info();
        let is_new = self.position.enter(info.created, info.state.last_sequence);
        let start = self.position.next;
        let disconnected = self.nats.disconnected();
        let watch = async || match start {
            // The last value, then every change: no gap between the two.
            None => Ok(bucket.watch_with_history(key).await?),
            Some(revision) => Ok(bucket.watch_from_revision(key, revision).await?),
        };
        let entries = retry(&self.nats, &retry_on, Duration::MAX, watch).await?;
        // A watch yields nothing if there is nothing.
        let last = async || Ok(bucket.entry(key).await?);
        let has_no_value =
            is_new && retry(&self.nats, &retry_on, Duration::MAX, last).await?.is_none();

        let is_void = Box::pin(watch_is_void(disconnected, bucket));
        self.watching = Some(Watching { entries, is_void });
        let is_told = std::mem::take(&mut self.is_reported) && !self.has_watched;
        self.has_watched = true;
        Ok((has_no_value && !is_told).then_some(Change::NoValue))
    }

    /// Decides whether to try again. At the start it waits only for a bucket that is missing. Later it
    /// also waits for a bucket that was deleted, for JetStream, and for room: nats-server removes the
    /// consumer of a watch that was given up after 30 s.
    fn not_watching(&mut self, error: Error) -> Result<Option<Change>> {
        let failure = failure(error.as_ref());
        let is_reported = std::mem::replace(&mut self.is_reported, true);
        if failure == Failure::Missing && !self.has_watched {
            self.position.next = Some(1); // everything in the bucket will be new
            return Ok((!is_reported).then_some(Change::NoBucket));
        }
        let has_no_room = code(error.as_ref()) == Some(ErrorCode::MAXIMUM_CONSUMERS_LIMIT);
        let passes = has_no_room || matches!(failure, Failure::Missing | Failure::Off);
        if !self.has_watched || !passes {
            return Err(error);
        }
        if !is_reported {
            let why = explain(error.as_ref());
            tracing::warn!("cannot watch the bucket {}, trying again: {why}", self.bucket);
        }
        Ok(None)
    }
}

/// Resolves when the connection is lost, or the bucket is gone, replaced or set back to an older
/// state: a watch on it can be silent for ever.
async fn watch_is_void(disconnected: impl Future<Output = Error>, bucket: Store) {
    let info = bucket.stream.cached_info();
    let (created, mut last) = (info.created, info.state.last_sequence);
    let is_replaced = async {
        loop {
            sleep(CHECK_INTERVAL).await;
            match bucket.stream.get_info().await {
                Ok(info) if info.created != created || info.state.last_sequence < last => break,
                Ok(info) => last = info.state.last_sequence,
                Err(error) if failure(&error) == Failure::Missing => break,
                Err(_) => {} // no answer says nothing about the bucket
            }
        }
    };
    tokio::select! {
        _ = disconnected => {}
        () = is_replaced => {}
    }
}

/// Where the next watch begins.
#[derive(Debug, Default)]
struct Position {
    /// When the bucket was created: it tells one bucket from another of the same name.
    created: Option<DateTime>,
    /// The revision to begin with; none for the last one there is.
    next: Option<u64>,
}

impl Position {
    /// Enters a bucket that was created then and whose last revision is `last`. Returns whether it is
    /// another bucket than before.
    fn enter(&mut self, created: DateTime, last: u64) -> bool {
        let before = self.created.replace(created);
        if before.is_some_and(|before| before != created) {
            tracing::warn!(
                "the bucket was deleted and created again: reading it from its beginning"
            );
            self.next = Some(1);
        } else if self.next.is_some_and(|next| next > last + 1) {
            tracing::warn!("the bucket was set back to an older state: its last value counts");
            self.next = None;
        }
        before != Some(created)
    }
}

#[cfg(test)]
mod tests {
    use async_nats::Error;
    use async_nats::datetime::from_nanos;

    use super::*;

    #[test]
    fn a_watch_goes_on_after_the_last_revision_that_was_seen() -> Result<(), Error> {
        let created = from_nanos(1)?;
        let mut position = Position::default();
        assert!(position.enter(created, 10));
        assert_eq!(position.next, None, "at the start with the last value");
        position.next = Some(11);
        assert!(!position.enter(created, 12));
        assert_eq!(position.next, Some(11));
        assert!(!position.enter(created, 10), "nothing has come since");
        assert_eq!(position.next, Some(11));
        Ok(())
    }

    #[test]
    fn another_bucket_is_read_from_its_beginning() -> Result<(), Error> {
        let mut position = Position { created: Some(from_nanos(1)?), next: Some(4) };
        assert!(position.enter(from_nanos(2)?, 20));
        assert_eq!(position.next, Some(1));
        // And again, if nothing was read in it.
        assert!(!position.enter(from_nanos(2)?, 21));
        assert_eq!(position.next, Some(1));
        Ok(())
    }

    #[test]
    fn in_a_bucket_that_was_set_back_the_last_value_counts() -> Result<(), Error> {
        let created = from_nanos(1)?;
        let mut position = Position { created: Some(created), next: Some(5) };
        assert!(!position.enter(created, 1));
        assert_eq!(position.next, None);
        Ok(())
    }
}
