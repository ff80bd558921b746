//! A SQLite database in which many jobs share a transaction.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

/// Changes that share a transaction at most.
const GROUP: usize = 500;
/// Time that SQLite waits for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before a file is opened again.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// Pause before a transaction is tried again that the database did not take.
const PAUSE: Duration = Duration::from_millis(500);

/// A SQLite file that is written by a thread of its own. The thread puts all changes that wait into
/// one transaction: a commit costs about as much as thirty changes.
///
/// A database that is locked by another process, or on a full disk, makes changes wait: the thread
/// tries again until the file takes them.
///
/// Clones share the thread.
#[derive(Clone)]
pub struct Database {
    changes: mpsc::Sender<Box<dyn Change>>,
}

impl Database {
    /// Opens or creates the file, and runs `schema` in it.
    ///
    /// # Errors
    ///
    /// If it is no SQLite file, or cannot be created.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn open(file: &Path, schema: &str) -> Result<Self> {
        let database = open(file, schema);
        let database =
            database.with_context(|| format!("cannot open the database {}", file.display()))?;
        let (changes, waiting) = mpsc::channel(GROUP);
        let (ended, mut groups) = mpsc::unbounded_channel::<Group>();
        thread::spawn(move || write(database, waiting, &ended));
        // Waking this thread once for a group is much cheaper than once for each change.
        tokio::spawn(async move {
            while let Some((group, failure)) = groups.recv().await {
                for change in group {
                    change.end(failure.as_ref());
                }
            }
        });
        Ok(Self { changes })
    }

    /// Makes a change, and returns its result when it is committed. `change` can run several times:
    /// if its transaction fails, the changes that it made are undone, and it is tried again.
    ///
    /// # Errors
    ///
    /// If the database fails in a way that does not pass.
    pub async fn change<T: Send + 'static>(
        &self,
        change: impl Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { change, result: None, answer };
        let sent = self.changes.send(Box::new(waiting)).await.is_ok();
        let answer = if sent { answered.await.ok() } else { None };
        answer.unwrap_or_else(|| Err(anyhow!("the database is closed")))
    }
}

fn open(file: &Path, schema: &str) -> rusqlite::Result<Connection> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        let opened = (|| {
            let database = Connection::open(file)?;
            database.busy_timeout(BUSY_TIMEOUT)?;
            // Readers do not wait for writers.
            database.pragma_update(None, "journal_mode", "wal")?;
            database.pragma_update(None, "synchronous", "normal")?;
            database.execute_batch(schema)?;
            Ok(database)
        })();
        match opened {
            // SQLite does not wait for another process that makes a new file a database at the same
            // time.
            Err(error) if is_busy(&error) && Instant::now() < deadline => {
                thread::sleep(BUSY_PAUSE);
            }
            opened => return opened,
        }
    }
}

/// A change that waits for its transaction.
trait Change: Send {
    fn apply(&mut self, database: &Connection) -> rusqlite::Result<()>;
    /// Tells the caller how the transaction ended.
    fn end(self: Box<Self>, failure: Option<&rusqlite::Error>);
}

/// Changes of one transaction, and why it failed.
type Group = (Vec<Box<dyn Change>>, Option<rusqlite::Error>);

struct Waiting<T, F> {
    change: F,
    result: Option<T>,
    answer: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: Fn(&Connection) -> rusqlite::Result<T> + Send> Change for Waiting<T, F> {
    fn apply(&mut self, database: &Connection) -> rusqlite::Result<()> {
        self.result = Some((self.change)(database)?);
        Ok(())
    }

    fn end(self: Box<Self>, failure: Option<&rusqlite::Error>) {
        let result = match failure {
            Some(error) => Err(anyhow!("the database failed: {error}")),
            None => self.result.context("not applied"),
        };
        // The caller may have stopped waiting.
        let _ = self.answer.send(result);
    }
}

fn write(
    mut database: Connection,
    mut waiting: mpsc::Receiver<Box<dyn Change>>,
    ended: &mpsc::UnboundedSender<Group>,
) {
    let mut group = Vec::new();
    while waiting.blocking_recv_many(&mut group, GROUP) > 0 {
        let mut is_reported = false;
        let failure = loop {
            match commit(&mut database, &mut group) {
                Ok(()) => break None,
                Err(error) if passes(&error) => {
                    if !is_reported {
                        is_reported = true;
                        tracing::warn!("the database does not take changes, trying again: {error}");
                    }
                    thread::sleep(PAUSE);
                }
                Err(error) => break Some(error),
            }
        };
        let group = std::mem::take(&mut group);
        if ended.send((group, failure)).is_err() {
            return;
        }
    }
}

fn commit(database: &mut Connection, group: &mut [Box<dyn Change>]) -> rusqlite::Result<()> {
    let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for change in group {
        change.apply(&transaction)?;
    }
    transaction.commit()
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

/// Whether the same transaction can succeed later.
fn passes(error: &rusqlite::Error) -> bool {
    use ErrorCode::{CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, SystemIoFailure};
    matches!(
        error.sqlite_error_code(),
        Some(CannotOpen | DatabaseBusy | DatabaseLocked | DiskFull | SystemIoFailure)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_begin_at_the_same_time_open_the_same_new_file() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for round in 0..50 {
            let file = folder.path().join(format!("{round}.db"));
            let open = || open(&file, "CREATE TABLE IF NOT EXISTS t (n INTEGER)").map(drop);
            thread::scope(|scope| {
                let others = [scope.spawn(open), scope.spawn(open), scope.spawn(open)];
                others.into_iter().try_for_each(|it| it.join().unwrap_or(Ok(())))
            })?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn changes_wait_while_another_process_writes() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("test.db");
        let database = Database::open(&file, "CREATE TABLE IF NOT EXISTS t (n INTEGER)")?;
        let other = Connection::open(&file)?;
        other.execute_batch("BEGIN IMMEDIATE")?;
        let insert = tokio::spawn(async move {
            database.change(|database| database.execute("INSERT INTO t VALUES (1)", [])).await
        });
        tokio::time::sleep(BUSY_TIMEOUT + PAUSE).await;
        assert!(!insert.is_finished());
        other.execute_batch("COMMIT")?;
        assert_eq!(insert.await??, 1);
        Ok(())
    }
}
