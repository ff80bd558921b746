//! Leaving a subject or a queue group without losing what the server has handed over.

use std::pin::pin;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Message, Subscriber};
use async_stream::stream;
use futures::FutureExt;
use futures::stream::{Stream, StreamExt};
use tokio::task::{unconstrained, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::connection::{Connection, Disconnected};

/// Pause after the echo. A subscription that another account imports is removed a moment after the
/// server has read our UNSUB: without the pause 34 of 300 stops lost a message, with it none of 900.
const SETTLE: Duration = Duration::from_millis(50);
/// A program without a connection waits this long for it before it stops draining.
const RECONNECT_TIMEOUT: Duration = Duration::from_millis(300);

impl Connection {
    /// The messages of a subscription until the program is told to stop, then those which the
    /// server had already handed over to it. A loop over them ends after the last one.
    ///
    /// ```no_run
    /// # use futures::StreamExt;
    /// # async fn worker(nats: common::Connection) -> anyhow::Result<()> {
    /// let jobs = nats.queue_subscribe("jobs", "workers".into()).await?;
    /// let mut jobs = nats.drain_on_stop(jobs);
    /// while let Some(job) = jobs.next().await {
    ///     // …
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`Subscriber::unsubscribe`] and [`Subscriber::drain`] lose messages. The server gives each
    /// message of a queue group to one member and forgets it. It goes on until it has read that the
    /// member leaves. Both calls make the client forget the subscription sooner, so it drops what
    /// arrives in between.
    ///
    /// [`Subscriber::unsubscribe_after`] a number of messages keeps the subscription in the client,
    /// and in the server until that many were sent. But nats-server reads numbers of up to nine
    /// digits; a longer one ends the subscription at once there (undocumented; the tests of
    /// `queue-groups` would notice a change). So after `unsubscribe_after(u64::MAX)` the server sends
    /// nothing more, and the client still takes what arrives. A message to an inbox of our own then
    /// follows: when it is back, everything that the server had sent before is here.
    ///
    /// The stream ends at the latest 3 s after the program was told to stop. What it has not yielded
    /// by then is lost, and counted by [`undrained`](Self::undrained). If there is no connection, it
    /// ends after 300 ms.
    pub fn drain_on_stop(
        &self,
        mut messages: Subscriber,
    ) -> impl Stream<Item = Message> + Send + Unpin + use<> {
        let nats = self.clone();
        Box::pin(stream! {
            let stop = nats.stop();
            // Unconstrained: tokio makes a task wait now and then although there is a message.
            // The connection's task, on the same thread, would then read more than is handled in
            // between, until the subscription's buffer is full and messages are dropped.
            while let Some(Some(message)) =
                unconstrained(stop.run_until_cancelled(messages.next())).await
            {
                yield message;
            }
            let deadline = nats.drain_deadline();
            let _ = timeout_at(deadline, messages.unsubscribe_after(u64::MAX)).await;
            let mut handed_over = pin!(nats.handed_over(deadline));
            while let Some(message) = unconstrained(async {
                tokio::select! {
                    biased;
                    () = &mut handed_over => None,
                    message = messages.next() => message,
                }
            })
            .await
            {
                yield message;
            }
            while Instant::now() < deadline
                && let Some(Some(message)) = unconstrained(messages.next()).now_or_never()
            {
                yield message;
            }
            while unconstrained(messages.next()).now_or_never().flatten().is_some() {
                nats.count_undrained();
            }
        })
    }

    /// Resolves when everything has arrived that the server had sent to this connection, or it
    /// never will.
    async fn handed_over(&self, deadline: Instant) {
        let echoed = async {
            // If the connection is lost, the next echo waits for the next connection.
            while let Err(error) = self.echo().await
                && error.is::<Disconnected>()
            {}
            sleep(SETTLE).await;
            // The connection's task has its turn: what waits in the socket counts.
            yield_now().await;
        };
        let away = async {
            while self.connection_state() == State::Connected {
                sleep(RECONNECT_TIMEOUT).await;
            }
        };
        tokio::select! {
            () = echoed => {}
            () = async { sleep(RECONNECT_TIMEOUT).await; away.await } => {}
            () = sleep_until(deadline) => {}
        }
    }
}
