//! Where a watch has to begin, and when it has to begin again.

use async_nats::datetime::DateTime;

/// How far the app is: which bucket it watches, and which of its revisions comes next.
///
/// Revisions count in one bucket, and a watch does not ask in which. In a bucket made anew, which
/// begins with 1, it would wait in silence for the revision after the last one it saw. So a bucket
/// is known by the time at which it was created, too.
#[derive(Debug, Default)]
pub struct Place {
    created: Option<DateTime>,
    /// The bucket's last revision, when we last looked.
    last: u64,
    /// None at the start, when it counts what the value is, and not how it came about.
    next: Option<u64>,
}

impl Place {
    /// There is no bucket yet: all that is in one made from now on is news.
    pub fn before_the_bucket(&mut self) {
        self.next = Some(1);
    }

    /// Enters a bucket, and returns the revision to begin with; none for the last one there is.
    pub fn enter(&mut self, created: DateTime, last: u64) -> Option<u64> {
        let before = self.created.replace(created);
        self.last = last;
        if before.is_some_and(|before| before != created) {
            tracing::warn!("the bucket was made anew: reading it from its beginning");
            self.next = Some(1);
        } else if self.next > Some(last + 1) {
            tracing::warn!("the bucket is older than it was: what it holds now counts");
            self.next = None;
        }
        self.next
    }

    /// Notes what the watch has brought.
    pub fn pass(&mut self, revision: u64) {
        self.next = Some(revision + 1);
    }

    /// Whether the bucket is still the one that was entered, and has not gone back in time.
    pub fn is_here(&mut self, created: DateTime, last: u64) -> bool {
        let is_here = self.created == Some(created) && last >= self.last;
        self.last = last;
        is_here
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
        let mut place = Place::default();
        assert_eq!(place.enter(created, 10), None, "the value, not its story");
        place.pass(10);
        assert_eq!(place.enter(created, 12), Some(11));
        assert_eq!(place.enter(created, 10), Some(11), "it is up to date");
        Ok(())
    }

    #[test]
    fn a_bucket_made_anew_is_read_from_its_beginning() -> Result<(), Error> {
        let mut place = Place::default();
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
        let mut place = Place::default();
        place.enter(created, 4);
        place.pass(4);
        assert!(place.is_here(created, 4) && place.is_here(created, 9));
        assert!(!place.is_here(created, 5), "it has come to 9 before");
        assert_eq!(place.enter(created, 1), None);
        Ok(())
    }
}
