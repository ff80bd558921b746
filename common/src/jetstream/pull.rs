//! Taking messages from a durable consumer through outages.

use std::mem;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Error, Result, ensure};
use async_nats::Subject;
use async_nats::connection::State;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::{AckKind, Message};
use futures::stream::ReadyChunks;
use futures::{FutureExt, StreamExt};
use tokio::time::{sleep, timeout};

use super::failure::Failure;
use super::retry::retry;
use crate::connection::Connection;
use crate::process::Stopped;

/// A batch that the server does not end in this time after it has expired will not be continued.
const OVERDUE: Duration = Duration::from_secs(1);
/// Time for nats-server to receive the last acknowledgements. A program that was told to stop has
/// 4 s: for a batch that does not end (one of 1 s is given up 1 s later), and then for this.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Pause before the consumer is opened again.
const PAUSE: Duration = Duration::from_millis(50);

/// What to ask the server for at a time.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// At most so many messages. Up to so many are delivered again if the program is killed.
    pub max_messages: usize,
    /// The server ends the batch after this time, even if it had fewer messages. So this is also how
    /// long an idle program takes to stop.
    pub expires: Duration,
}

/// A batch that was requested.
struct Request {
    messages: ReadyChunks<pull::Batch>,
    /// The loss of the connection on which it was requested.
    disconnected: Pin<Box<dyn Future<Output = Error>>>,
    /// How many of the unconfirmed acknowledgements were sent before it.
    acknowledged: usize,
}

/// The messages of a pull consumer until the program is told to stop.
///
/// - It asks for one batch after the other, and takes each to its end. So no message that the server
///   has delivered is left until its `ack_wait` is over when the program stops. (`messages()` of the
///   library fetches ahead, and leaves up to 200 messages behind.)
/// - The server forgets a batch with its connection, and does not say so. After a reconnect it asks
///   again.
/// - If the consumer or its stream is gone, it calls `open` again, the program's own function.
///
/// ```no_run
/// # use std::time::Duration;
/// # use async_nats::jetstream::{self, AckKind, consumer::PullConsumer};
/// # use common::jetstream::{Batch, Pull};
/// # async fn worker(nats: common::Connection, jetstream: jetstream::Context) -> anyhow::Result<()> {
/// let open = async || -> anyhow::Result<PullConsumer> {
///     Ok(jetstream.get_consumer_from_stream("worker", "jobs").await?)
/// };
/// let batch = Batch { max_messages: 100, expires: Duration::from_secs(1) };
/// let mut pull = Pull::open(&nats, batch, open).await?;
/// while let Some(jobs) = pull.next(u64::MAX).await? {
///     let mut answers = Vec::new();
///     for job in jobs {
///         // … do it, then:
///         answers.push((job, AckKind::Ack));
///     }
///     pull.acknowledge(answers).await?;
/// }
/// pull.close().await
/// # }
/// ```
pub struct Pull<F> {
    nats: Connection,
    batch: Batch,
    open: F,
    consumer: PullConsumer,
    requested: Option<Request>,
    must_reopen: bool,
    /// Acknowledgements that nats-server may not have received, and their subjects.
    unconfirmed: Vec<(Subject, AckKind)>,
    /// How many of these are sent, from the first one …
    sent: usize,
    /// … on a connection that was the one after so many losses.
    losses: u64,
    /// How many batches in a row have failed.
    failures: u32,
}

impl<F: AsyncFn() -> Result<PullConsumer>> Pull<F> {
    /// Opens the consumer. If its stream is missing, it waits until the stream exists.
    ///
    /// # Errors
    ///
    /// Those of [`retry`].
    pub async fn open(nats: &Connection, batch: Batch, open: F) -> Result<Self> {
        let retry_on = [Failure::Unanswered, Failure::Missing];
        let consumer = retry(nats, &retry_on, Duration::MAX, &open).await?;
        Ok(Self {
            nats: nats.clone(),
            batch,
            open,
            consumer,
            requested: None,
            must_reopen: false,
            unconfirmed: Vec::new(),
            sent: 0,
            losses: nats.losses(),
            failures: 0,
        })
    }

    /// The consumer as it was when it was opened.
    pub fn consumer(&self) -> &PullConsumer {
        &self.consumer
    }

    /// The next messages: those that have arrived, at least one. A batch that it requests meanwhile
    /// has at most `limit` messages (from 1). None if the program was told to stop and everything
    /// that was delivered is taken.
    ///
    /// # Errors
    ///
    /// If `open` fails for good, or the connection is closed. What the server has denied.
    pub async fn next(&mut self, limit: u64) -> Result<Option<Vec<Message>>> {
        loop {
            let Some(request) = &mut self.requested else {
                self.nats.permitted()?;
                if self.nats.stop().is_cancelled() {
                    return Ok(None);
                }
                if self.must_reopen {
                    self.reopen().await?;
                } else {
                    self.request(limit).await?;
                }
                continue;
            };
            let arrived = tokio::select! {
                biased;
                arrived = request.messages.next() => arrived,
                error = &mut request.disconnected => Some(vec![Err(error.into())]),
                () = sleep(self.batch.expires + OVERDUE) => Some(vec![Err("no answer".into())]),
            };
            let Some(arrived) = arrived else {
                // After a loss they are sent again, and the next batch confirms them.
                if request.disconnected.as_mut().now_or_never().is_none() {
                    self.unconfirmed.drain(..request.acknowledged);
                    self.sent -= request.acknowledged;
                }
                self.requested = None;
                continue;
            };
            let mut taken = Vec::with_capacity(arrived.len());
            for message in arrived {
                match message {
                    Ok(message) => taken.push(message),
                    // The consumer or its stream is gone, or the server is stopping.
                    Err(error) => self.failed(&error),
                }
            }
            if !taken.is_empty() {
                self.failures = 0;
                return Ok(Some(taken));
            }
        }
    }

    /// Acknowledges messages. nats-server handles what a connection sends in order. So it has
    /// received them when it has answered the next request for a batch; if their connection is lost
    /// before that, they are sent again.
    ///
    /// (`double_ack` waits for the consumer's word instead. It does not come if the server was killed
    /// and has forgotten the delivery.)
    ///
    /// # Errors
    ///
    /// If the connection is closed. What the server has denied.
    pub async fn acknowledge(&mut self, answers: Vec<(Message, AckKind)>) -> Result<()> {
        let answers = answers.into_iter();
        self.unconfirmed
            .extend(answers.filter_map(|(it, answer)| Some((it.message.reply?, answer))));
        let stop = self.nats.stop().clone();
        tokio::select! {
            biased;
            sent = self.send() => sent?,
            // The client's buffer is full, as the server is away.
            () = stop.cancelled() => {}
        }
        self.nats.permitted()
    }

    /// Makes sure at the end of the program that nats-server has received all acknowledgements.
    ///
    /// # Errors
    ///
    /// If it has not confirmed: these messages may be delivered again. What the server has denied.
    pub async fn close(mut self) -> Result<()> {
        let confirmed = async {
            while !self.unconfirmed.is_empty() {
                self.send().await?;
                if self.nats.echo().await.is_ok() && self.nats.losses() == self.losses {
                    self.unconfirmed.clear();
                }
                self.nats.permitted()?;
            }
            anyhow::Ok(())
        };
        if let Ok(confirmed) = timeout(CLOSE_TIMEOUT, confirmed).await {
            confirmed?;
        }
        let (servers, count) = (self.nats.servers(), self.unconfirmed.len());
        ensure!(
            count == 0,
            "{servers} did not confirm the last {count} acknowledgements: these messages may come again"
        );
        Ok(())
    }

    /// Sends the acknowledgements that are not sent yet. After a loss of the connection that is all
    /// of them.
    async fn send(&mut self) -> Result<()> {
        let losses = self.nats.losses();
        if losses != self.losses {
            (self.losses, self.sent) = (losses, 0);
        }
        while let Some((subject, answer)) = self.unconfirmed.get(self.sent) {
            self.nats.publish(subject.clone(), (*answer).into()).await?;
            self.sent += 1;
        }
        Ok(())
    }

    async fn request(&mut self, limit: u64) -> Result<()> {
        let disconnected = Box::pin(self.nats.disconnected());
        // Without a connection no answer comes, and no loss is reported either.
        if self.nats.connection_state() != State::Connected {
            self.must_reopen = true;
            return Ok(());
        }
        let Batch { max_messages, expires } = self.batch;
        let max_messages =
            usize::try_from(limit).map_or(max_messages, |limit| limit.min(max_messages));
        let stop = self.nats.stop().clone();
        let request = async {
            self.send().await?;
            let batch = self.consumer.batch().max_messages(max_messages).expires(expires);
            anyhow::Ok(batch.messages().await?)
        };
        // While the server is away and the client's buffer is full, it waits.
        if let Some(messages) = stop.run_until_cancelled(request).await {
            let messages = messages?.ready_chunks(max_messages);
            self.requested = Some(Request { messages, disconnected, acknowledged: self.sent });
        }
        Ok(())
    }

    fn failed(&mut self, error: &async_nats::Error) {
        (self.requested, self.must_reopen) = (None, true);
        self.failures += 1;
        if self.failures == 2 {
            let name = &self.consumer.cached_info().name;
            tracing::warn!("cannot fetch from the consumer {name}, trying again: {error}");
        }
    }

    /// Opens the consumer again, unless the program is told to stop.
    async fn reopen(&mut self) -> Result<()> {
        sleep(PAUSE).await;
        // A server that is stopping says that JetStream is off.
        let retry_on = [Failure::Unanswered, Failure::Missing, Failure::Off];
        let consumer = match retry(&self.nats, &retry_on, Duration::MAX, &self.open).await {
            Err(error) if error.is::<Stopped>() => return Ok(()),
            consumer => consumer?,
        };
        self.must_reopen = false;
        let before = mem::replace(&mut self.consumer, consumer);
        let info = self.consumer.cached_info();
        if info.created != before.cached_info().created {
            tracing::warn!(
                "the consumer {} was gone and is created again: it starts with the first message of its stream",
                info.name
            );
        }
        Ok(())
    }
}
