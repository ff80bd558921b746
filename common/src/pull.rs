//! Taking messages from a durable consumer, whatever happens to it meanwhile.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::Batch;
use futures::StreamExt;
use futures::stream::ReadyChunks;
use tokio::time::{sleep, timeout};

use crate::failure::{Failure, retry};
use crate::process::{is_shutting_down, shutdown};

/// Messages asked for at once. So many come a second time when the program is killed.
const BATCH: usize = 1_000;
/// How long the server may wait until it has as many. Whatever was asked for is taken to its end,
/// so this is how long an idle program takes to stop, too.
const EXPIRES: Duration = Duration::from_secs(1);
/// Returned at a time, at the most.
const CHUNK: usize = 250;
/// How often to look whether the connection is still the one on which was asked.
const LOOK: Duration = Duration::from_millis(100);

/// The messages of a pull consumer until the program is told to stop (see
/// [`shutdown`](crate::shutdown)).
///
/// - It asks for one batch after the other, and takes each to its end: nothing that the server has
///   delivered is left to wait for its `ack_wait`. (`Consumer::messages` asks ahead, and leaves
///   behind what it was sent in the meantime.)
/// - A request goes with its connection, and nobody says so: after a reconnect it asks again.
/// - Where the consumer or its stream is gone, it opens it again, by the program's own function.
///
/// ```no_run
/// # use async_nats::jetstream::{self, consumer::PullConsumer};
/// # async fn worker(client: async_nats::Client, jetstream: jetstream::Context) -> anyhow::Result<()> {
/// let open = async || -> anyhow::Result<PullConsumer> {
///     Ok(jetstream.get_consumer_from_stream("worker", "jobs").await?)
/// };
/// let Some(mut jobs) = common::Pull::open(&client, open).await? else {
///     return Ok(()); // told to stop while waiting for the stream
/// };
/// while let Some(jobs) = jobs.next(usize::MAX).await? {
///     for job in jobs {
///         // … do it, then:
///         job.ack().await.map_err(anyhow::Error::from_boxed)?;
///     }
/// }
/// // Told to stop, and everything is taken. `close` makes sure that the acknowledgements arrive.
/// common::close(&client).await
/// # }
/// ```
pub struct Pull<F> {
    client: Client,
    open: F,
    consumer: PullConsumer,
    batch: Option<Asked>,
    /// The consumer has to be opened again.
    is_stale: bool,
}

/// A batch that was asked for.
struct Asked {
    messages: ReadyChunks<Batch>,
    /// On which connection.
    connects: u64,
}

impl<F: AsyncFn() -> Result<PullConsumer>> Pull<F> {
    /// Opens the consumer, and waits for its stream where there is none; none when the program is
    /// told to stop meanwhile.
    ///
    /// # Errors
    ///
    /// Where `open` fails for good.
    pub async fn open(client: &Client, open: F) -> Result<Option<Self>> {
        let worth = [Failure::Passing, Failure::Missing];
        let consumer = tokio::select! {
            consumer = retry(client, &worth, Duration::MAX, &open) => consumer?,
            () = shutdown() => return Ok(None),
        };
        Ok(Some(Self {
            client: client.clone(),
            open,
            consumer,
            batch: None,
            is_stale: false,
        }))
    }

    /// The consumer as it was when it was opened.
    pub fn consumer(&self) -> &PullConsumer {
        &self.consumer
    }

    /// The next messages, as many as have come, and no more than `most` (from 1) until the batch
    /// ends; none when the program was told to stop and everything was taken.
    ///
    /// # Errors
    ///
    /// Where `open` fails for good.
    pub async fn next(&mut self, most: usize) -> Result<Option<Vec<Message>>> {
        loop {
            let Some(batch) = &mut self.batch else {
                if is_shutting_down() {
                    return Ok(None);
                }
                if self.is_stale {
                    self.reopen().await?;
                } else {
                    self.batch = Some(self.ask(most).await?);
                }
                continue;
            };
            let messages = match timeout(LOOK, batch.messages.next()).await {
                Ok(Some(messages)) => messages,
                // It has come to its end, or nothing came for a while.
                Ok(None) => {
                    self.batch = None;
                    continue;
                }
                Err(_) => {
                    self.is_stale = batch.connects != connects(&self.client);
                    if self.is_stale {
                        self.batch = None;
                    }
                    continue;
                }
            };
            let mut taken = Vec::with_capacity(messages.len());
            for message in messages {
                match message {
                    Ok(message) => taken.push(message),
                    // The consumer is gone, or its stream, or the server is stopping.
                    Err(error) => {
                        tracing::debug!("{}: {error}", self.consumer.cached_info().name);
                        (self.batch, self.is_stale) = (None, true);
                    }
                }
            }
            if !taken.is_empty() {
                return Ok(Some(taken));
            }
        }
    }

    async fn ask(&self, most: usize) -> Result<Asked> {
        let connects = connects(&self.client);
        let batch = self.consumer.batch();
        let batch = batch.max_messages(most.min(BATCH)).expires(EXPIRES);
        let messages = batch.messages().await?.ready_chunks(CHUNK);
        Ok(Asked { messages, connects })
    }

    async fn reopen(&mut self) -> Result<()> {
        // A server that is stopping has its JetStream off.
        let worth = [Failure::Passing, Failure::Missing, Failure::Off];
        let open = async {
            sleep(LOOK).await;
            retry(&self.client, &worth, Duration::MAX, &self.open).await
        };
        tokio::select! {
            consumer = open => {
                self.is_stale = false;
                let before = std::mem::replace(&mut self.consumer, consumer?);
                let info = self.consumer.cached_info();
                if info.created != before.cached_info().created {
                    tracing::warn!(
                        "the consumer {} was gone and is made again: it begins with the first message that is there",
                        info.name
                    );
                }
            }
            () = shutdown() => {}
        }
        Ok(())
    }
}

/// Which connection this is, counted from 1; 0 where there is none.
fn connects(client: &Client) -> u64 {
    match client.connection_state() {
        State::Connected => client.statistics().connects.load(Ordering::Relaxed),
        _ => 0,
    }
}
