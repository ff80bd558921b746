//! Taking messages from a durable consumer, whatever happens to it meanwhile.

use std::mem;
use std::pin::Pin;
use std::time::Duration;

use anyhow::Result;
use async_nats::Client;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::Batch;
use futures::StreamExt;
use futures::stream::ReadyChunks;
use tokio::time::sleep;

use crate::connection::lost;
use crate::failure::{Failure, retry};
use crate::process::{Stopped, is_shutting_down, unless_stopped};

/// Messages asked for at once. Up to so many come again when the program is killed.
const BATCH: usize = 1_000;
/// How long the server may wait until it has as many. Whatever was asked for is taken to its end,
/// so this is how long an idle program takes to stop, too.
const EXPIRES: Duration = Duration::from_secs(1);
/// A server that has been silent for so long, about the end of the batch too, will say nothing more.
const SILENCE: Duration = Duration::from_secs(3);
/// Before the consumer is opened again: whatever has happened to it may take a moment.
const PAUSE: Duration = Duration::from_millis(50);

/// The messages of a pull consumer until the program is told to stop (see
/// [`shutdown`](crate::shutdown)).
///
/// - It asks for one batch after the other, and takes each to its end: nothing that the server has
///   delivered is left to wait for its `ack_wait`. (`Consumer::messages` asks ahead, and leaves
///   behind what it was sent in the meantime.) Be done with what [`next`](Pull::next) returns
///   within 5 s: after that the library gives up the rest of a batch.
/// - A request is lost with its connection, and nobody says so: after a reconnect it asks again.
/// - Where the consumer or its stream is gone, it opens it again, by the program's own function.
///
/// ```no_run
/// # use async_nats::jetstream::{self, consumer::PullConsumer};
/// # async fn worker(client: async_nats::Client, jetstream: jetstream::Context) -> anyhow::Result<()> {
/// let open = async || -> anyhow::Result<PullConsumer> {
///     Ok(jetstream.get_consumer_from_stream("worker", "jobs").await?)
/// };
/// let mut jobs = common::Pull::open(&client, open).await?;
/// while let Some(jobs) = jobs.next(u64::MAX).await? {
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
    /// How many batches in a row have failed.
    failures: u32,
}

/// A batch that was asked for, and the end of the connection on which it was.
struct Asked {
    messages: ReadyChunks<Batch>,
    lost: Pin<Box<dyn Future<Output = ()>>>,
}

impl<F: AsyncFn() -> Result<PullConsumer>> Pull<F> {
    /// Opens the consumer, and waits for its stream where there is none.
    ///
    /// # Errors
    ///
    /// As [`retry`], and [`Stopped`] where the program is told to stop meanwhile.
    pub async fn open(client: &Client, open: F) -> Result<Self> {
        let worth = [Failure::Passing, Failure::Missing];
        let opening = retry(client, &worth, Duration::MAX, &open);
        let consumer = unless_stopped(opening).await?;
        Ok(Self {
            client: client.clone(),
            open,
            consumer,
            batch: None,
            is_stale: false,
            failures: 0,
        })
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
    /// Where `open` fails for good, or the connection is closed.
    pub async fn next(&mut self, most: u64) -> Result<Option<Vec<Message>>> {
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
            let (messages, is_stale) = tokio::select! {
                biased;
                messages = batch.messages.next() => (messages, false),
                () = &mut batch.lost => (None, true),
                () = sleep(SILENCE) => (None, true),
            };
            let Some(messages) = messages else {
                (self.batch, self.is_stale) = (None, is_stale);
                continue;
            };
            let mut taken = Vec::with_capacity(messages.len());
            for message in messages {
                match message {
                    Ok(message) => taken.push(message),
                    // The consumer is gone, or its stream, or the server is stopping.
                    Err(error) => {
                        (self.batch, self.is_stale) = (None, true);
                        self.failures += 1;
                        if self.failures == 2 {
                            let name = &self.consumer.cached_info().name;
                            tracing::warn!("the consumer {name} gives nothing, trying on: {error}");
                        }
                    }
                }
            }
            if !taken.is_empty() {
                self.failures = 0;
                return Ok(Some(taken));
            }
        }
    }

    async fn ask(&self, most: u64) -> Result<Asked> {
        let lost = Box::pin(lost());
        let most = usize::try_from(most).unwrap_or(BATCH).min(BATCH);
        let batch = self.consumer.batch().max_messages(most).expires(EXPIRES);
        let messages = batch.messages().await?.ready_chunks(BATCH);
        Ok(Asked { messages, lost })
    }

    /// Opens the consumer again, unless the program is told to stop.
    async fn reopen(&mut self) -> Result<()> {
        sleep(PAUSE).await;
        // A server that is stopping has its JetStream off.
        let worth = [Failure::Passing, Failure::Missing, Failure::Off];
        let opening = retry(&self.client, &worth, Duration::MAX, &self.open);
        let consumer = match unless_stopped(opening).await {
            Err(error) if error.is::<Stopped>() => return Ok(()),
            consumer => consumer?,
        };
        self.is_stale = false;
        let before = mem::replace(&mut self.consumer, consumer);
        let info = self.consumer.cached_info();
        if info.created != before.cached_info().created {
            tracing::warn!(
                "the consumer {} was gone and is made again: it begins with the first message that is there",
                info.name
            );
        }
        Ok(())
    }
}
