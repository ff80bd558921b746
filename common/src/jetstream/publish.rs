//! Publishing messages into a stream, many at a time, through outages.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, bail};
use async_nats::Subject;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_stream::try_stream;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use tokio::time::sleep;

use super::failure::{Failure, explain, failure};
use super::retry::retry;
use crate::connection::Connection;
use crate::{Output, summary};

/// Pause before the messages in flight are sent again.
const PAUSE: Duration = Duration::from_millis(50);

/// How far publishing goes without an acknowledgement.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// At most so many messages are sent and not acknowledged.
    pub in_flight: usize,
    /// It gives up if nats-server has stored nothing for this long. Keep it below the stream's
    /// `duplicate_window`: a repetition that comes later is stored a second time.
    pub patience: Duration,
}

/// Publishing ended before everything was acknowledged.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
struct Unacknowledged {
    /// So many messages may be stored or not.
    in_flight: usize,
    why: String,
}

/// Publishes what `message` makes of each item, and yields the item when nats-server has stored its
/// message, in the order of `items`. If the program is told to stop, it takes no more items.
///
/// An acknowledgement that does not come leaves open whether the message is stored. So the messages
/// in flight are sent again, in the same order. Each needs a message id, by which nats-server
/// recognises those that it has. Before that, it calls `create`, the program's own function, which
/// opens the stream, or creates it if it is gone.
///
/// # Errors
///
/// If nats-server refuses a message, or the patience is over. The error of `message`, or of the
/// client library, if a message cannot be sent.
pub fn publish_all<T>(
    nats: &Connection,
    jetstream: &Context,
    window: Window,
    items: impl Iterator<Item = T>,
    message: impl Fn(&T) -> Result<(Subject, PublishMessage)>,
    mut create: impl AsyncFnMut() -> Result<()>,
) -> impl Stream<Item = Result<(T, PublishAck)>> {
    try_stream! {
        let mut items = items.fuse();
        // The oldest in front.
        let mut in_flight = VecDeque::new();
        let mut last_stored = Instant::now();
        let mut disconnected = pin!(nats.disconnected());
        loop {
            while in_flight.len() < window.in_flight
                && !nats.stop().is_cancelled()
                && let Some(item) = items.next()
            {
                let ack = send(jetstream, message(&item)?).await?;
                in_flight.push_back((item, ack));
            }
            let Some((_, ack)) = in_flight.front_mut() else { break };
            let acknowledged: Result<PublishAck> = tokio::select! {
                biased;
                ack = ack => ack.map_err(Error::from),
                error = disconnected.as_mut() => Err(error),
            };
            let error = match acknowledged {
                Ok(ack) => {
                    last_stored = Instant::now();
                    if let Some((item, _)) = in_flight.pop_front() {
                        yield (item, ack);
                    }
                    continue;
                }
                Err(error) => error,
            };
            let left = window.patience.saturating_sub(last_stored.elapsed());
            if failure(error.as_ref()) == Failure::Refused || left.is_zero() {
                let why = explain(error.as_ref());
                Err(Unacknowledged { in_flight: in_flight.len(), why })?;
            }

            tracing::debug!("{} messages are not acknowledged: {error:#}", in_flight.len());
            sleep(PAUSE).await;
            let retry_on = [Failure::Unanswered, Failure::Missing, Failure::Off];
            if let Err(error) = retry(nats, &retry_on, left, &mut create).await {
                Err(Unacknowledged { in_flight: in_flight.len(), why: format!("{error:#}") })?;
            }
            disconnected.set(nats.disconnected());
            for (item, ack) in &mut in_flight {
                *ack = send(jetstream, message(item)?).await?;
            }
        }
    }
}

/// Prints a line for each item that [`publish_all`] yields, and in the end the [`summary`].
///
/// # Errors
///
/// If publishing ended before everything was acknowledged: how many are stored, how many more may
/// be. If stdout is closed.
pub async fn print_stored<T>(
    nats: &Connection,
    noun: &str,
    stored: impl Stream<Item = Result<(T, PublishAck)>>,
    line: impl Fn(&T, &PublishAck) -> Option<String>,
) -> Result<()> {
    let (started, mut out, mut count) = (Instant::now(), Output::new(), 0);
    let mut stored = pin!(stored);
    let end = loop {
        match stored.next().await {
            Some(Ok((item, ack))) => {
                count += 1;
                if let Some(line) = line(&item, &ack) {
                    out.line(line).await?;
                }
            }
            Some(Err(error)) => break Err(error),
            // What nats-server has denied or refused also stops the program.
            None => break nats.permitted(),
        }
    };

    out.flush().await?;
    if let Err(error) = end {
        let unknown = error.downcast_ref().map_or(0, |it: &Unacknowledged| it.in_flight);
        let servers = nats.servers();
        bail!("{count} {noun} are stored on {servers}, {unknown} more may be or not: {error:#}");
    }
    out.line(summary(count, noun, started.elapsed())).await?;
    out.flush().await
}

/// An acknowledgement that is on its way.
type Ack = BoxFuture<'static, Result<PublishAck, PublishError>>;

async fn send(jetstream: &Context, (subject, message): (Subject, PublishMessage)) -> Result<Ack> {
    let sent = jetstream.send_publish(subject, message).await;
    Ok(Box::pin(async { sent?.await }))
}
