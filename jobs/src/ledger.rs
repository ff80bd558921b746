//! What the database knows of the jobs: which are done, and how often the others were tried.
//!
//! nats-server delivers a job at least once: again after an outage, to a second worker while the
//! first one stands still, or from two messages for the same job. Each function here is one
//! transaction that decides what such a delivery means.

use std::path::Path;
use std::time::SystemTime;

use anyhow::Result;
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use crate::database::Database;
use crate::job::Delivery;
use crate::work::Failure;

/// A job that has failed this many times is dead.
pub const MAX_ATTEMPTS: u32 = 5;
/// A job whose worker was killed this many times runs alone, so that it takes no other jobs of the
/// worker with it again.
const SUSPICIOUS: u32 = 2;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS effects (
        job_id TEXT PRIMARY KEY, kind TEXT, worker TEXT, done_at TEXT
    );
    -- The jobs that are not done. `published` is the time of the message that is tried, `since` that
    -- of the first message for the job. `state` is running, failed, dead, held or released.
    CREATE TABLE IF NOT EXISTS attempts (
        job_id TEXT PRIMARY KEY, kind TEXT NOT NULL, key TEXT,
        published INTEGER NOT NULL, since INTEGER NOT NULL,
        state TEXT NOT NULL, attempts INTEGER NOT NULL, worker TEXT,
        first_at TEXT, last_at TEXT, error TEXT
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS blocking ON attempts (kind, key)
        WHERE state IN ('dead', 'held', 'released');
";

/// What to do with a job that was delivered.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// Run it.
    Run(Attempt),
    /// Begin it again when no other job of this worker runs: its attempts have not ended.
    Alone,
    /// Begin it again when its dead letter is deleted: it was dead, and was retried or submitted
    /// again.
    Revive,
    /// Nothing: it is done, or this message is an older one of two for the same job.
    Nothing,
    /// It is dead.
    Dead(Death),
    /// An earlier job with its key is dead, or waits itself: its id.
    Wait(String),
}

/// What a worker has done before a job begins.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ready {
    /// None of its other jobs runs.
    pub is_alone: bool,
    /// It has deleted the job's dead letter.
    pub has_no_letter: bool,
}

/// An attempt that has begun. It counts, whether it ends or not.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    job_id: String,
    kind: String,
    published: i64,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// The effect is stored.
    Done,
    /// The job failed, and is tried again after a pause: the error.
    Again(String),
    /// The job failed for good.
    Dead(Death),
    /// Another worker has begun the job again meanwhile: this attempt has no effect.
    Overtaken,
}

/// Why a job is dead.
#[derive(Clone, Debug, PartialEq)]
pub struct Death {
    /// The last error.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was first tried, in RFC 3339.
    pub first_at: String,
    /// When it was last tried.
    pub last_at: String,
}

impl Death {
    /// The death of a message that is no job: it was never tried.
    #[must_use]
    pub fn untried(reason: &str) -> Self {
        let reason = common::printable(reason);
        Self { reason, attempts: 0, first_at: now(), last_at: now() }
    }
}

/// The tables `effects` and `attempts` of a SQLite file, which all workers share.
#[derive(Clone)]
pub struct Ledger {
    database: Database,
    worker: String,
}

impl Ledger {
    /// Opens the file, or creates it.
    ///
    /// # Errors
    ///
    /// Those of [`Database::open`].
    pub fn open(file: &Path, worker: &str) -> Result<Self> {
        Ok(Self { database: Database::open(file, SCHEMA)?, worker: worker.into() })
    }

    /// Begins an attempt, and counts it before the job runs: the job may kill its worker. With
    /// `strict` a job waits for dead ones of its kind and key that were submitted before it.
    ///
    /// # Errors
    ///
    /// Those of [`Database::change`].
    pub async fn begin(&self, delivery: &Delivery, strict: bool, ready: Ready) -> Result<Start> {
        let (delivery, worker) = (delivery.clone(), self.worker.clone());
        let begin = move |database: &Connection| {
            let begin = Begin { database, delivery: &delivery, worker: &worker };
            begin.start(strict, ready)
        };
        self.database.change(begin).await
    }

    /// Stores the effect of the job and that it is done, in one transaction.
    ///
    /// With another database: the same two statements, in one transaction.
    ///
    /// # Errors
    ///
    /// Those of [`Database::change`].
    pub async fn done(&self, attempt: &Attempt) -> Result<End> {
        let (attempt, worker) = (attempt.clone(), self.worker.clone());
        let done = move |database: &Connection| {
            let Attempt { job_id, kind, published, number } = &attempt;
            let mut delete = database.prepare_cached(
                "DELETE FROM attempts WHERE job_id = ? AND published = ? AND attempts = ?
                 AND state = 'running'",
            )?;
            if delete.execute(params![job_id, published, number])? == 0 {
                return Ok(End::Overtaken);
            }
            let mut insert = database.prepare_cached("INSERT INTO effects VALUES (?, ?, ?, ?)")?;
            insert.execute(params![job_id, kind, worker, now()])?;
            Ok(End::Done)
        };
        self.database.change(done).await
    }

    /// Notes that the attempt has failed. The job is dead if that was the last attempt, or if the
    /// failure is final.
    ///
    /// # Errors
    ///
    /// Those of [`Database::change`].
    pub async fn failed(&self, attempt: &Attempt, failure: &Failure) -> Result<End> {
        let (attempt, error) = (attempt.clone(), common::printable(&failure.to_string()));
        let is_final = matches!(failure, Failure::Final(_));
        let is_dead = is_final || attempt.number >= MAX_ATTEMPTS;
        let state = if is_dead { "dead" } else { "failed" };
        let failed = move |database: &Connection| {
            let mut update = database.prepare_cached(
                "UPDATE attempts SET state = :state, error = :error, last_at = :now
                 WHERE job_id = :job_id AND published = :published AND attempts = :number
                 AND state = 'running' RETURNING *",
            )?;
            let row = update.query_row(
                named_params! {
                    ":state": state, ":error": error, ":now": now(), ":job_id": attempt.job_id,
                    ":published": attempt.published, ":number": attempt.number,
                },
                Known::read,
            );
            Ok(match row.optional()? {
                Some(known) if is_dead => End::Dead(known.death),
                Some(known) => End::Again(known.death.reason),
                None => End::Overtaken,
            })
        };
        self.database.change(failed).await
    }

    /// Takes back this worker's attempt, if it has one that has not ended: it does not count.
    ///
    /// # Errors
    ///
    /// Those of [`Database::change`].
    pub async fn hand_back(&self, delivery: &Delivery) -> Result<()> {
        let (job_id, published) = (delivery.job_id.clone(), delivery.published);
        let worker = self.worker.clone();
        let hand_back = move |database: &Connection| {
            let mut update = database.prepare_cached(
                "UPDATE attempts SET state = 'failed', attempts = attempts - 1
                 WHERE job_id = ? AND published = ? AND worker = ? AND state = 'running'",
            )?;
            update.execute(params![job_id, published, worker])?;
            Ok(())
        };
        self.database.change(hand_back).await
    }

    /// Notes that a dead job, or one that waits for it, was dropped: its successors no longer wait.
    ///
    /// # Errors
    ///
    /// Those of [`Database::change`].
    pub async fn released(&self, job_id: &str) -> Result<()> {
        let job_id = job_id.to_owned();
        let released = move |database: &Connection| {
            let mut update = database.prepare_cached(
                "UPDATE attempts SET state = 'released'
                 WHERE job_id = ? AND state IN ('dead', 'held')",
            )?;
            update.execute([&job_id])?;
            Ok(())
        };
        self.database.change(released).await
    }
}

/// A row of `attempts`.
struct Known {
    published: i64,
    since: i64,
    state: String,
    death: Death,
}

impl Known {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let text = |column| row.get::<_, Option<String>>(column).map(Option::unwrap_or_default);
        Ok(Self {
            published: row.get("published")?,
            since: row.get("since")?,
            state: row.get("state")?,
            death: Death {
                reason: text("error")?,
                attempts: row.get("attempts")?,
                first_at: text("first_at")?,
                last_at: text("last_at")?,
            },
        })
    }
}

/// Beginning an attempt.
struct Begin<'a> {
    database: &'a Connection,
    delivery: &'a Delivery,
    worker: &'a str,
}

impl Begin<'_> {
    fn start(&self, strict: bool, ready: Ready) -> rusqlite::Result<Start> {
        let Delivery { job_id, kind, key, published, .. } = self.delivery;
        let attempt = |number| Attempt {
            number,
            job_id: job_id.clone(),
            kind: kind.clone(),
            published: *published,
        };
        // Nearly all jobs are new: for them one statement is enough.
        if !(strict && key.is_some()) && self.is_new()? {
            return Ok(Start::Run(attempt(1)));
        }
        let mut effect = self.database.prepare_cached("SELECT 1 FROM effects WHERE job_id = ?")?;
        if effect.exists([job_id])? {
            return Ok(Start::Nothing);
        }
        let mut known = self.database.prepare_cached("SELECT * FROM attempts WHERE job_id = ?")?;
        let known = known.query_row([job_id], Known::read).optional()?;
        let since = known.as_ref().map_or(*published, |known| known.since);
        let attempts = match known {
            None => 0,
            Some(known) if known.published > *published => return Ok(Start::Nothing),
            Some(known) => match known.state.as_str() {
                "dead" if known.published == *published => return Ok(Start::Dead(known.death)),
                "dead" if !ready.has_no_letter => return Ok(Start::Revive),
                "dead" | "released" => 0,
                "running" if known.death.attempts >= MAX_ATTEMPTS => return self.died(known.death),
                "running" if known.death.attempts >= SUSPICIOUS && !ready.is_alone => {
                    return Ok(Start::Alone);
                }
                _ => known.death.attempts,
            },
        };
        if strict && let Some(earlier) = self.earlier(since)? {
            self.note("held", since, attempts)?;
            return Ok(Start::Wait(earlier));
        }
        let number = attempts + 1;
        self.note("running", since, number)?;
        Ok(Start::Run(attempt(number)))
    }

    /// Notes the first attempt of a job, unless the job is done or was tried before.
    fn is_new(&self) -> rusqlite::Result<bool> {
        let Delivery { job_id, kind, key, published, .. } = self.delivery;
        let mut insert = self.database.prepare_cached(
            "INSERT INTO attempts
             SELECT :job_id, :kind, :key, :published, :published, 'running', 1, :worker,
                :now, :now, NULL
             WHERE NOT EXISTS (SELECT 1 FROM effects WHERE job_id = :job_id)
             ON CONFLICT DO NOTHING",
        )?;
        let inserted = insert.execute(named_params! {
            ":job_id": job_id, ":kind": kind, ":key": key, ":published": published,
            ":worker": self.worker, ":now": now(),
        })?;
        Ok(inserted == 1)
    }

    /// Marks the job dead: its last attempt has not ended.
    fn died(&self, death: Death) -> rusqlite::Result<Start> {
        let reason =
            format!("attempt {} did not end: its worker died or lost nats-server", death.attempts);
        let mut update = self.database.prepare_cached(
            "UPDATE attempts SET state = 'dead', published = ?, error = ? WHERE job_id = ?",
        )?;
        update.execute(params![self.delivery.published, reason, self.delivery.job_id])?;
        Ok(Start::Dead(Death { reason, ..death }))
    }

    /// The first job that holds this one up: an earlier one with its key that is dead, or waits
    /// itself.
    ///
    /// A job that was dropped is released, and forgotten when the next one comes again.
    fn earlier(&self, since: i64) -> rusqlite::Result<Option<String>> {
        let Delivery { kind, key, .. } = self.delivery;
        let mut earlier = self.database.prepare_cached(
            "SELECT job_id FROM attempts WHERE kind = ? AND key = ? AND since < ?
             AND state IN ('dead', 'held') ORDER BY since LIMIT 1",
        )?;
        let earlier = earlier.query_row(params![kind, key, since], |row| row.get(0)).optional()?;
        if earlier.is_none() {
            let mut dropped = self.database.prepare_cached(
                "DELETE FROM attempts WHERE kind = ? AND key = ? AND since < ?
                 AND state = 'released'",
            )?;
            dropped.execute(params![kind, key, since])?;
        }
        Ok(earlier)
    }

    fn note(&self, state: &str, since: i64, attempts: u32) -> rusqlite::Result<()> {
        let Delivery { job_id, kind, key, published, .. } = self.delivery;
        let mut upsert = self.database.prepare_cached(
            "INSERT INTO attempts VALUES (:job_id, :kind, :key, :published, :since, :state,
                :attempts, :worker, :now, :now, NULL)
             ON CONFLICT (job_id) DO UPDATE SET published = :published, state = :state,
                attempts = :attempts, worker = :worker, last_at = :now,
                first_at = CASE WHEN :attempts <= 1 THEN :now ELSE first_at END",
        )?;
        upsert.execute(named_params! {
            ":job_id": job_id, ":kind": kind, ":key": key, ":published": published,
            ":since": since, ":state": state, ":attempts": attempts, ":worker": self.worker,
            ":now": now(),
        })?;
        Ok(())
    }
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}
