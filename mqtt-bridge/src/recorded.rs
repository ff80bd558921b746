//! What was recorded before this start.

use std::time::Duration;

use anyhow::{Context as _, Error, Result};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::{Context, Message};
use common::{Failure, Seen};
use futures::StreamExt;

use crate::{Name, SUBJECT};

/// How many readings of those recorded last are recalled.
const RECALL: usize = 20_000;
/// When the server forgets the consumer that reads them.
const FORGET: Duration = Duration::from_secs(2);

/// What the consumer's programs have recorded last: a sensor may send it again now. `size` is that of
/// the memory.
///
/// # Errors
///
/// Where the stream cannot be read; [`common::Stopped`] where the program is told to stop meanwhile.
pub async fn recall(
    jetstream: &Context,
    consumer: &PullConsumer,
    size: usize,
) -> Result<Seen<Name>> {
    let client = jetstream.client();
    let recall = async || recorded(jetstream, consumer, size).await;
    let recalling = common::retry(&client, &[Failure::Passing], Duration::MAX, recall);
    let recalled = common::unless_stopped(recalling).await;
    recalled.context("cannot read what was recorded before")
}

async fn recorded(jetstream: &Context, consumer: &PullConsumer, size: usize) -> Result<Seen<Name>> {
    let mut seen = Seen::new(size);
    // All up to here was acknowledged. What comes next may not have been recorded.
    let info = consumer.cached_info();
    let recorded = info.ack_floor.stream_sequence;
    if recorded == 0 {
        return Ok(seen);
    }
    let history = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: recorded.saturating_sub(RECALL as u64).max(1),
        },
        ack_policy: AckPolicy::None,
        filter_subject: SUBJECT.into(),
        inactive_threshold: FORGET,
        ..Default::default()
    };
    let history = jetstream
        .create_consumer_on_stream(history, &info.stream_name)
        .await?;
    let mut messages = history.fetch().max_messages(RECALL).messages().await?;
    while let Some(message) = messages.next().await {
        let message: Message = message.map_err(Error::from_boxed)?;
        let info = message.info().map_err(Error::from_boxed)?;
        if info.stream_sequence > recorded {
            break;
        }
        if let Ok(reading) = crate::reading(&message.payload) {
            seen.insert(crate::name(&reading));
        }
    }
    Ok(seen)
}
