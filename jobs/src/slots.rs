//! How many jobs run at a time.

use common::CancellationToken;
use futures::future::try_join_all;
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

use crate::job::Kind;

/// Slots in which jobs run, the same number for each kind, until the program is told to stop.
#[derive(Debug)]
pub struct Slots {
    stop: CancellationToken,
    kinds: [Semaphore; Kind::ALL.len()],
    concurrency: u32,
    limit: Semaphore,
}

/// A job can run as long as this lives.
#[derive(Debug)]
pub struct Slot<'a> {
    slots: Vec<SemaphorePermit<'a>>,
    limit: SemaphorePermit<'a>,
}

impl Slots {
    /// At most `concurrency` jobs of a kind run at a time, and at most `limit` in all are done.
    #[must_use]
    pub fn new(concurrency: u32, limit: Option<u64>, stop: CancellationToken) -> Self {
        let permits = usize::try_from(concurrency).unwrap_or(Semaphore::MAX_PERMITS);
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let kinds = Kind::ALL.map(|_| Semaphore::new(permits));
        Self { stop, kinds, concurrency, limit: Semaphore::new(limit) }
    }

    /// Waits for a slot of a kind. None if the program is told to stop.
    pub async fn one(&self, kind: Kind) -> Option<Slot<'_>> {
        self.acquire(async { Ok(vec![self.kinds[kind as usize].acquire().await?]) }).await
    }

    /// Waits until no job runs, and lets no other one run. None if the program is told to stop.
    pub async fn all(&self) -> Option<Slot<'_>> {
        let all = self.kinds.iter().map(|slots| slots.acquire_many(self.concurrency));
        self.acquire(try_join_all(all)).await
    }

    async fn acquire<'a>(
        &'a self,
        slots: impl Future<Output = Result<Vec<SemaphorePermit<'a>>, AcquireError>>,
    ) -> Option<Slot<'a>> {
        let acquire =
            async { Ok(Slot { slots: slots.await?, limit: self.limit.acquire().await? }) };
        let acquired: Result<_, AcquireError> = self.stop.run_until_cancelled(acquire).await?;
        acquired.ok()
    }
}

impl Slot<'_> {
    /// The job has ended: another one can run while its end is stored.
    pub fn ended(&mut self) {
        self.slots.clear();
    }

    /// The job is done: it counts for the limit.
    pub fn done(self) {
        self.limit.forget();
    }
}
