//! Which readings were recorded before this start.

use std::time::Duration;

use anyhow::{Context as _, Error, Result};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::{Context, Message};
use common::jetstream::{Failure, retry};
use common::{Connection, Dedup};
use futures::StreamExt;

use crate::{ReadingId, SUBJECT};

/// How many of the readings recorded last are read again.
const LOOK_BACK: usize = 20_000;
/// Time after which nats-server deletes the consumer that reads them.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(2);

/// Returns the ids of the readings that were recorded last on this durable consumer: a sensor may
/// send one of them again now. `size` is the size of the returned memory.
///
/// # Errors
///
/// If the stream cannot be read. [`common::Stopped`] if the program is told to stop meanwhile.
pub async fn recorded_before(
    nats: &Connection,
    jetstream: &Context,
    consumer: &PullConsumer,
    size: usize,
) -> Result<Dedup<ReadingId>> {
    let read = async || read(jetstream, consumer, size).await;
    let recorded = retry(nats, &[Failure::Unanswered], Duration::MAX, read).await;
    recorded.context("cannot read what was recorded before")
}

async fn read(
    jetstream: &Context,
    consumer: &PullConsumer,
    size: usize,
) -> Result<Dedup<ReadingId>> {
    let mut recorded = Dedup::new(size);
    // All messages up to the acknowledgement floor are acknowledged, so they were recorded. Those
    // after it may not be.
    let info = consumer.cached_info();
    let floor = info.ack_floor.stream_sequence;
    if floor == 0 {
        return Ok(recorded);
    }
    let history = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: floor.saturating_sub(LOOK_BACK as u64).max(1),
        },
        ack_policy: AckPolicy::None,
        filter_subject: SUBJECT.into(),
        inactive_threshold: INACTIVE_THRESHOLD,
        ..Default::default()
    };
    let history = jetstream.create_consumer_on_stream(history, &info.stream_name).await?;
    let mut messages = history.fetch().max_messages(LOOK_BACK).messages().await?;
    while let Some(message) = messages.next().await {
        let message: Message = message.map_err(Error::from_boxed)?;
        let info = message.info().map_err(Error::from_boxed)?;
        if info.stream_sequence > floor {
            break;
        }
        if let Ok(reading) = crate::reading(&message.payload) {
            recorded.insert(crate::reading_id(&reading));
        }
    }
    Ok(recorded)
}
