//! How a program leaves a subject, or a queue group, without losing what is on its way to it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, Message, Statistics, Subscriber};
use futures::stream::{self, Stream, StreamExt};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use crate::process::{is_shutting_down, shutdown};

/// Once nothing has come for this long, nothing is on its way any more. Longer than a round trip to
/// the server takes.
const QUIET: Duration = Duration::from_millis(300);
/// What takes longer than this to arrive is given up.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(3);

/// The messages of a subscription until the program is told to stop (see
/// [`shutdown`]), and then those which the server had already handed over: a loop
/// over them ends when the last one was taken.
///
/// ```no_run
/// # use futures::StreamExt;
/// # async fn worker(client: async_nats::Client) -> anyhow::Result<()> {
/// let jobs = client.queue_subscribe("jobs", "workers".into()).await?;
/// let mut jobs = common::until_shutdown(&client, jobs);
/// while let Some(job) = jobs.next().await {
///     // …
/// }
/// // Told to stop, and everything is taken. What remains: wait for handlers that still run, and
/// // `common::close` a client that has published something.
/// # Ok(())
/// # }
/// ```
///
/// What is wrong with [`Subscriber::unsubscribe`] and [`Subscriber::drain`]? The server hands each
/// message of a queue group to one member and forgets it. It goes on doing so until it has read
/// that we leave, and what it has handed over by then is ours to handle. Both calls make the
/// client forget the subscription sooner, `unsubscribe` at once, `drain` when the connection next
/// has something to do. What arrives later is dropped, and nobody is told.
///
/// [`Subscriber::unsubscribe_after`] keeps the subscription, in the client until that many
/// messages have come, and so does the server; but the server reads numbers of nine digits at
/// most, and a longer one means "now" to it. So with a huge number the server stops at once, while
/// the client takes whatever still arrives. (To a server that read such numbers, this would mean
/// to go on, until 3 s later we left anyhow. The tests of `queue-groups` would tell.)
///
/// The server does not say when it has stopped, but a connection on which nothing comes for longer
/// than a round trip takes is empty. Therefore:
///
/// - The loop ends 300 to 600 ms after the last message, on an idle connection 300 ms after the
///   signal, and just so where the server is away.
/// - Over a network with round trips of more than 300 ms, messages can be lost.
/// - Whatever arrives on the connection counts, for other subscriptions as well; after 3 s it is
///   over in any case.
/// - Leaving begins when the next message is asked for: a loop that does something else for long
///   leaves late.
pub fn until_shutdown(
    client: &Client,
    messages: Subscriber,
) -> impl Stream<Item = Message> + Send + Unpin {
    let leaving = UntilShutdown {
        messages,
        statistics: client.statistics(),
        stage: Stage::Working,
    };
    Box::pin(stream::unfold(leaving, async |mut leaving| {
        let message = leaving.next().await?;
        Some((message, leaving))
    }))
}

struct UntilShutdown {
    messages: Subscriber,
    statistics: Arc<Statistics>,
    stage: Stage,
}

enum Stage {
    Working,
    /// The server was told. What is on its way arrives, until this future resolves.
    Leaving(Pin<Box<dyn Future<Output = ()> + Send + Sync>>),
    /// What is left has arrived.
    Left,
}

impl UntilShutdown {
    async fn next(&mut self) -> Option<Message> {
        if matches!(self.stage, Stage::Working) {
            // Asked first: where messages come without a pause, `select!` would always have one.
            if !is_shutting_down() {
                tokio::select! {
                    biased;
                    message = self.messages.next() => return message,
                    () = shutdown() => {}
                }
            }
            // Waits only where the server is away and the client's buffer is full.
            let _ = timeout(QUIET, self.messages.unsubscribe_after(u64::MAX)).await;
            self.stage = Stage::Leaving(Box::pin(silence(Arc::clone(&self.statistics))));
        }
        if let Stage::Leaving(silence) = &mut self.stage {
            tokio::select! {
                biased;
                () = silence => {}
                message = self.messages.next() => return message,
            }
            // Ends the stream behind what has arrived, which a server that is away cannot do.
            if timeout(QUIET, self.messages.unsubscribe()).await.is_err() {
                return None;
            }
            self.stage = Stage::Left;
        }
        self.messages.next().await
    }
}

/// Resolves when nothing came on the connection for a while.
async fn silence(statistics: Arc<Statistics>) {
    let deadline = Instant::now() + ARRIVAL_TIMEOUT;
    let mut seen = None;
    loop {
        let received = Some(statistics.in_messages.load(Ordering::Relaxed));
        if received == seen || Instant::now() >= deadline {
            break;
        }
        seen = received;
        sleep(QUIET).await;
        // The connection has its turn first: what waits in the socket counts.
        yield_now().await;
    }
}
