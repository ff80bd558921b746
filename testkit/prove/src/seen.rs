//! What programs have printed.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The ids that programs have named in their lines, all copies of a program together. A line that
/// names an id means: it is handled.
#[derive(Clone)]
pub struct Seen(Arc<Shared>);

struct Shared {
    is_id: Box<dyn Fn(&str) -> bool + Send + Sync>,
    ids: Mutex<Ids>,
    changed: Condvar,
}

#[derive(Default)]
struct Ids {
    in_order: Vec<String>,
    times: HashMap<String, u32>,
    held: bool,
}

impl Ids {
    fn count(&self) -> u64 {
        self.in_order.len() as u64
    }
}

impl Seen {
    /// Takes those words of a line for ids that satisfy `is_id`. A word consists of letters, digits,
    /// `-` and `_`.
    pub fn new(is_id: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        let (ids, changed) = (Mutex::default(), Condvar::new());
        Self(Arc::new(Shared { is_id: Box::new(is_id), ids, changed }))
    }

    fn lock(&self) -> MutexGuard<'_, Ids> {
        self.0.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(
        &self,
        limit: Duration,
        is_early: impl Fn(&mut Ids) -> bool,
    ) -> MutexGuard<'_, Ids> {
        let waited = self.0.changed.wait_timeout_while(self.lock(), limit, is_early);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Takes a line. Waits while lines are [held](Self::hold).
    pub(crate) fn note(&self, line: &str) {
        let is_word = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        let words = line.split(|c| !is_word(c)).filter(|word| (self.0.is_id)(word));
        let mut words: Vec<&str> = words.collect();
        words.dedup();
        if words.is_empty() {
            return;
        }
        let mut ids = self.wait_while(Duration::MAX, |ids| ids.held);
        for word in words {
            ids.in_order.push(word.to_owned());
            *ids.times.entry(word.to_owned()).or_default() += 1;
        }
        drop(ids);
        self.0.changed.notify_all();
    }

    /// Reads no further line that names an id: a program that prints more of them waits for its
    /// pipe, as one that is slow.
    /// That ends when what it returns is dropped.
    #[must_use]
    pub fn hold(&self) -> Held {
        self.lock().held = true;
        Held(self.clone())
    }

    /// Waits until `count` ids, or more, are handled; repetitions count. Returns how many are when
    /// they are, or the time is up.
    #[must_use]
    pub fn wait(&self, count: u64, limit: Duration) -> u64 {
        self.wait_while(limit, |ids| ids.count() < count).count()
    }

    /// How many ids are handled; repetitions count.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.lock().count()
    }

    /// Waits until this id is handled, and returns when that was noticed; none if it is not in time.
    #[must_use]
    pub fn wait_for(&self, id: &str, limit: Duration) -> Option<Instant> {
        let ids = self.wait_while(limit, |ids| !ids.times.contains_key(id));
        ids.times.contains_key(id).then(Instant::now)
    }

    /// How often this id is handled.
    #[must_use]
    pub fn times(&self, id: &str) -> u32 {
        self.lock().times.get(id).copied().unwrap_or(0)
    }

    /// The ids in the order of the lines.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.lock().in_order.clone()
    }

    /// How many of these ids are not handled, and how many more than once.
    pub fn missing_and_repeated<'a>(&self, ids: impl Iterator<Item = &'a str>) -> (usize, usize) {
        let seen = self.lock();
        ids.fold((0, 0), |(missing, repeated), id| match seen.times.get(id) {
            None => (missing + 1, repeated),
            Some(1) => (missing, repeated),
            Some(_) => (missing, repeated + 1),
        })
    }
}

/// Lines are held: see [`Seen::hold`].
pub struct Held(Seen);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().held = false;
        self.0.0.changed.notify_all();
    }
}
