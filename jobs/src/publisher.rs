//! What a worker publishes before it answers nats-server.

use std::pin::pin;
use std::time::Duration;

use anyhow::Result;
use async_nats::jetstream::Context;
use common::jetstream::{Failure, retry};
use common::{Connection, Stopped};
use futures::TryStreamExt;
use tokio::time::sleep;

use crate::job::Delivery;
use crate::ledger::{Death, Ledger};
use crate::{dead, overview, queue, schedule};

/// Pause before a worker tries again to store what nats-server has refused.
const PAUSE: Duration = Duration::from_secs(5);

/// Publishes dead letters, and jobs that have to wait.
#[derive(Clone)]
pub struct Publisher {
    /// The connection.
    pub nats: Connection,
    /// … and its streams.
    pub jetstream: Context,
    /// The worker's name.
    pub worker: String,
}

impl Publisher {
    /// Publishes a dead letter. Returns whether it is stored: false if the program was told to stop
    /// before.
    ///
    /// # Errors
    ///
    /// What nats-server has denied.
    pub async fn bury(&self, delivery: &Delivery, death: &Death) -> Result<bool> {
        let max_payload = self.nats.server_info().max_payload;
        let publish = async || {
            dead::publish(&self.jetstream, delivery, death, &self.worker, max_payload).await
        };
        self.store(&delivery.job_id, publish).await
    }

    /// Deletes the dead letter of a job that is delivered again. Returns whether it is deleted, as
    /// [`bury`](Self::bury).
    ///
    /// # Errors
    ///
    /// What nats-server has denied.
    pub async fn revive(&self, delivery: &Delivery) -> Result<bool> {
        self.store(&delivery.job_id, async || dead::delete(&self.jetstream, delivery).await).await
    }

    /// Lets a job wait for an earlier one with its key that is dead. It goes back into the queue by
    /// way of a schedule, so other keys in its partition do not wait. Returns whether the schedule is
    /// stored, as [`bury`](Self::bury).
    ///
    /// # Errors
    ///
    /// What nats-server has denied. If the database fails.
    pub async fn hold(
        &self,
        delivery: &Delivery,
        earlier: &str,
        delay: Duration,
        ledger: &Ledger,
    ) -> Result<bool> {
        let Delivery { job_id, payload, kind, .. } = delivery;
        let publish = async || {
            let is_there = dead::exists(&self.jetstream, kind, earlier).await?
                || self.is_in_queue(delivery, earlier).await?;
            if !is_there {
                ledger.released(earlier).await?;
            }
            let subject = schedule::subject(job_id);
            let message = schedule::message(payload.clone(), job_id, &delivery.subject(), delay);
            self.jetstream.send_publish(subject, message).await?.await?;
            Ok(())
        };
        self.store(job_id, publish).await
    }

    /// Whether a job of the same kind and key is in the queue, perhaps not due yet.
    async fn is_in_queue(&self, delivery: &Delivery, job_id: &str) -> Result<bool> {
        let jobs = self.jetstream.get_stream_no_info(queue::STREAM).await?;
        let key = delivery.key.as_deref().unwrap_or_default();
        let subject = format!("jobs.new.{}.*.{key}", delivery.kind);
        // First those that are not due: when a job is due, it is in the other place at once.
        for subject in [schedule::subject(job_id), subject] {
            let mut messages = pin!(overview::messages(&jobs, &subject));
            while let Some(message) = messages.try_next().await? {
                if overview::id_of(&message) == job_id {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    async fn store(
        &self,
        job_id: &str,
        mut publish: impl AsyncFnMut() -> Result<()>,
    ) -> Result<bool> {
        let retry_on = [Failure::Unanswered, Failure::Missing, Failure::Off];
        loop {
            match retry(&self.nats, &retry_on, Duration::MAX, &mut publish).await {
                Ok(()) => return Ok(true),
                Err(error) if error.is::<Stopped>() => return Ok(false),
                Err(error) => {
                    self.nats.permitted()?;
                    tracing::warn!(
                        "{job_id} cannot leave the queue or its dead letter, trying again: {error:#}"
                    );
                }
            }
            self.nats.stop().run_until_cancelled(sleep(PAUSE)).await;
        }
    }
}
