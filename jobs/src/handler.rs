//! What becomes of a job that was delivered: done, tried again, dead, told to wait or handed back.

use std::time::Duration;

use anyhow::Result;
use async_nats::jetstream::{AckKind, Message};
use common::CancellationToken;
use tokio::time::{sleep, timeout};

use crate::job::{Delivery, Order, Task};
use crate::ledger::{Death, End, Ledger, Ready, Start};
use crate::{Publisher, Report, Slots};

/// Pause before a job is tried a second time. It doubles with each attempt, and up to a fifth of it
/// is added by chance: jobs that failed together are not tried again together.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// With `strict`: pause before a job that waits for a dead one looks again.
const HOLD: Duration = Duration::from_secs(2);
/// Time that running jobs have to end after the worker is told to stop. The others are handed back.
const FINISH: Duration = Duration::from_secs(2);
/// Time that the database has to uncount the attempts of jobs that are handed back.
const HAND_BACK_TIMEOUT: Duration = Duration::from_millis(300);
/// The job is delivered again at once, to any worker.
const HAND_BACK: AckKind = AckKind::Nak(None);

/// Does jobs.
pub struct Handler {
    /// Attempts and effects.
    pub ledger: Ledger,
    /// For jobs that are dead or have to wait.
    pub publisher: Publisher,
    /// How many jobs run at a time.
    pub slots: Slots,
    /// What is printed.
    pub report: Report,
    /// Jobs with a key wait while an earlier one with their key is dead.
    pub strict: bool,
    /// Time spent on each job.
    pub work: Duration,
    /// Running jobs end or are handed back when it is cancelled.
    pub stop: CancellationToken,
}

impl Handler {
    /// Does a job that was delivered. Returns what nats-server is told about it: nothing if another
    /// worker will tell it.
    ///
    /// # Errors
    ///
    /// If the database or stdout fails, or nats-server denies something.
    pub async fn handle(&self, message: &Message) -> Result<Option<AckKind>> {
        let delivery = Delivery::read(message)?;
        let task = match &delivery.task {
            Ok(task) => task,
            Err(why) => return self.bury(&delivery, &Death::untried(why)).await,
        };
        tokio::select! {
            biased;
            answer = self.attempt(&delivery, task) => answer,
            () = self.out_of_time() => {
                // The attempt does not count, unless the database is locked.
                let _ = timeout(HAND_BACK_TIMEOUT, self.ledger.hand_back(&delivery)).await;
                Ok(Some(HAND_BACK))
            }
        }
    }

    /// Tries a job, unless it is done, dead or told to wait.
    async fn attempt(&self, delivery: &Delivery, task: &Task) -> Result<Option<AckKind>> {
        let Some(mut slot) = self.slots.one(task.kind).await else { return Ok(Some(HAND_BACK)) };
        let strict = self.strict && task.kind.order() == Order::PerKey;
        let mut ready = Ready::default();
        let attempt = loop {
            match self.ledger.begin(delivery, strict, ready).await? {
                Start::Run(attempt) => break attempt,
                Start::Nothing => return Ok(Some(AckKind::Ack)),
                Start::Dead(death) => return self.bury(delivery, &death).await,
                Start::Wait(earlier) => return self.hold(delivery, &earlier).await,
                Start::Alone => {
                    drop(slot);
                    let Some(all) = self.slots.all().await else { return Ok(Some(HAND_BACK)) };
                    slot = all;
                    ready.is_alone = true;
                }
                Start::Revive => {
                    ready.has_no_letter = self.publisher.revive(delivery).await?;
                    if !ready.has_no_letter {
                        return Ok(Some(HAND_BACK));
                    }
                }
            }
        };

        if !self.work.is_zero() {
            sleep(self.work).await;
        }
        let result = task.run(attempt.number, delivery.age()).await;
        slot.ended();
        let end = match result {
            Ok(()) => self.ledger.done(&attempt).await?,
            Err(failure) => self.ledger.failed(&attempt, &failure).await?,
        };
        let (id, number) = (&delivery.job_id, attempt.number);
        match end {
            End::Done => {
                slot.done();
                self.report.done(id).await?;
                Ok(Some(AckKind::Ack))
            }
            End::Again(error) => {
                let pause = FIRST_PAUSE * 2_u32.pow(number - 1);
                let pause = pause.mul_f64(rand::random_range(1.0..1.2));
                let after = format!("{id} again in {:.1} s", pause.as_secs_f64());
                let line = format_args!("{after}: attempt {number} failed, {error}");
                self.report.line(line).await?;
                Ok(Some(AckKind::Nak(Some(pause))))
            }
            End::Dead(death) => self.bury(delivery, &death).await,
            // A later attempt of the job has begun: its worker answers nats-server.
            End::Overtaken => Ok(None),
        }
    }

    /// Publishes the dead letter. `Term`, which deletes the job from the queue, comes after that.
    async fn bury(&self, delivery: &Delivery, death: &Death) -> Result<Option<AckKind>> {
        if !self.publisher.bury(delivery, death).await? {
            return Ok(Some(HAND_BACK));
        }
        let (id, Death { attempts, reason, .. }) = (&delivery.job_id, death);
        self.report.line(format_args!("{id} dead (attempts: {attempts}): {reason}")).await?;
        Ok(Some(AckKind::Term))
    }

    /// Schedules the job again: an earlier job with its key is dead.
    async fn hold(&self, delivery: &Delivery, earlier: &str) -> Result<Option<AckKind>> {
        if !self.publisher.hold(delivery, earlier, HOLD, &self.ledger).await? {
            return Ok(Some(HAND_BACK));
        }
        let id = &delivery.job_id;
        self.report.line(format_args!("{id} again in {HOLD:?}: it waits for {earlier}")).await?;
        Ok(Some(AckKind::Ack))
    }

    /// Resolves when running jobs are out of time, because the program was told to stop.
    async fn out_of_time(&self) {
        self.stop.cancelled().await;
        sleep(FINISH).await;
    }
}
