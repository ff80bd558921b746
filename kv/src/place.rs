//! Where a watch has to begin, and when it has to begin again.

use std::cell::Cell;
use std::time::Duration;

use async_nats::datetime::DateTime;
use async_nats::jetstream::kv::Store;
use common::Failure;
use tokio::time::sleep;

/// How often to ask whether a bucket is still the same.
const CHECK: Duration = Duration::from_secs(2);

/// How far the app is: which bucket it watches, and which of its revisions comes next.
///
/// Revisions count in one bucket, and a watch does not ask in which. In a bucket made anew, which
/// begins with 1, it would wait in silence for the revision after the last one it saw. So a bucket
/// is known by the time at which it was created, too.
#[derive(Debug, Default)]
pub struct Place {
    created: Cell<Option<DateTime>>,
    /// The bucket's last revision, when we last looked.
    last: Cell<u64>,
    /// None at the start, when it counts what the value is, and not how it came about.
    next: Cell<Option<u64>>,
}

impl Place {
    /// There is no bucket yet: all that is in one made from now on is news.
    pub fn before_the_bucket(&self) {
        self.next.set(Some(1));
    }

    /// Enters a bucket, and returns the revision to begin with; none for the last one there is.
    pub fn enter(&self, created: DateTime, last: u64) -> Option<u64> {
        let before = self.created.replace(Some(created));
        self.last.set(last);
        if before.is_some_and(|before| before != created) {
            tracing::warn!("the bucket was made anew: reading it from its beginning");
            self.next.set(Some(1));
        } else if self.next.get() > Some(last + 1) {
            tracing::warn!("the bucket is older than it was: what it holds now counts");
            self.next.set(None);
        }
        self.next.get()
    }

    /// Notes what the watch has brought.
    pub fn pass(&self, revision: u64) {
        self.next.set(Some(revision + 1));
    }

    /// Whether the bucket is still the one that was entered, and has not gone back in time.
    pub fn is_here(&self, created: DateTime, last: u64) -> bool {
        let before = self.last.replace(last);
        self.created.get() == Some(created) && last >= before
    }
}

/// Returns when a bucket is gone, or another one under its name, or has gone back in time: the server
/// tells no watcher.
pub async fn until_another(bucket: &Store) {
    let info = bucket.stream.cached_info();
    let place = Place::default();
    place.enter(info.created, info.state.last_sequence);
    loop {
        sleep(CHECK).await;
        match bucket.stream.get_info().await {
            Ok(info) if place.is_here(info.created, info.state.last_sequence) => {}
            Ok(_) => break,
            Err(error) if common::failure(&error) == Failure::Missing => break,
            Err(_) => {} // no answer says nothing about the bucket
        }
    }
}

#[cfg(test)]
mod tests {
    use async_nats::Error;
    use async_nats::datetime::from_nanos;

    use super::*;

    #[test]
    fn a_watch_goes_on_where_the_last_one_ended() -> Result<(), Error> {
        let created = from_nanos(1)?;
        let place = Place::default();
        assert_eq!(place.enter(created, 10), None, "the value, not its story");
        place.pass(10);
        assert_eq!(place.enter(created, 12), Some(11));
        assert_eq!(place.enter(created, 10), Some(11), "it is up to date");
        Ok(())
    }

    #[test]
    fn a_bucket_made_anew_is_read_from_its_beginning() -> Result<(), Error> {
        let place = Place::default();
        place.before_the_bucket();
        assert_eq!(place.enter(from_nanos(1)?, 3), Some(1));
        place.pass(3);
        // Whatever it has come to meanwhile.
        assert!(!place.is_here(from_nanos(2)?, 20));
        assert_eq!(place.enter(from_nanos(2)?, 20), Some(1));
        // Until something was read there, this holds.
        assert_eq!(place.enter(from_nanos(2)?, 21), Some(1));
        Ok(())
    }

    #[test]
    fn of_an_older_bucket_counts_what_it_holds() -> Result<(), Error> {
        let created = from_nanos(1)?;
        let place = Place::default();
        place.enter(created, 4);
        place.pass(4);
        assert!(place.is_here(created, 4) && place.is_here(created, 9));
        assert!(!place.is_here(created, 5), "it has come to 9 before");
        assert_eq!(place.enter(created, 1), None);
        Ok(())
    }
}
