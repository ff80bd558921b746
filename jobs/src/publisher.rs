//! What a worker publishes before it answers nats-server.

use std::time::Duration;

use anyhow::Result;
use async_nats::jetstream::Context;
use common::jetstream::{Failure, retry};
use common::{Connection, Stopped};
use tokio::time::sleep;

use crate::job::Delivery;
use crate::ledger::{Death, Ledger};
use crate::{dead, schedule};

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
        let publish = async || dead::publish(&self.jetstream, delivery, death, &self.worker).await;
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
            if !dead::exists(&self.jetstream, kind, earlier).await? {
                ledger.released(earlier).await?;
            }
            let subject = schedule::subject(job_id);
            let message = schedule::message(payload.clone(), job_id, &delivery.subject(), delay);
            self.jetstream.send_publish(subject, message).await?.await?;
            Ok(())
        };
        self.store(job_id, publish).await
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
