//! Whether each request that a server took got its reply.

use std::cell::{Cell, OnceCell};
use std::time::Duration;

use anyhow::{Result, bail};
use async_nats::PublishError;
use async_nats::connection::State;
use common::Connection;
use tokio::time::{Instant, sleep_until};

/// Time that a program has for its last replies, from the moment it is told to stop.
const REPLY_TIMEOUT: Duration = Duration::from_secs(3);

/// Counts the requests that a program took, and those which it leaves unanswered.
///
/// A request is answered when its reply is on its way to nats-server. It is unanswered if its
/// handler is not done 3 s after the program was told to stop, or if nats-server is away by then:
/// the reply waits in the client's buffer and is lost with it. Requests that no handler had time
/// for count too.
///
/// A reply that was written to the socket just before the connection broke counts as answered.
/// NATS does not acknowledge messages, so the program cannot know better.
#[derive(Debug)]
pub struct Replies {
    nats: Connection,
    taken: Cell<u64>,
    unanswered: Cell<u64>,
    stopped_at: OnceCell<Instant>,
}

impl Replies {
    /// Nothing taken so far.
    #[must_use]
    pub fn new(nats: &Connection) -> Self {
        Self {
            nats: nats.clone(),
            taken: Cell::new(0),
            unanswered: Cell::new(0),
            stopped_at: OnceCell::new(),
        }
    }

    /// Takes a request: runs its handler, which publishes the reply, and waits until the reply has
    /// left.
    pub async fn send(&self, handler: impl Future<Output = Result<(), PublishError>>) {
        self.taken.update(|taken| taken + 1);
        let sent = async {
            handler.await?;
            if self.nats.connection_state() != State::Connected {
                // Returns after the reconnect.
                self.nats.flush().await?;
            }
            anyhow::Ok(())
        };
        tokio::select! {
            biased;
            sent = sent => if let Err(error) = sent {
                // The subject is the requester's choice, and need not be a valid one.
                tracing::warn!("cannot send a reply: {error}");
            },
            () = self.timeout() => self.unanswered.update(|unanswered| unanswered + 1),
        }
    }

    async fn timeout(&self) {
        self.nats.stop().cancelled().await;
        let stopped_at = *self.stopped_at.get_or_init(Instant::now);
        sleep_until(stopped_at + REPLY_TIMEOUT).await;
    }

    /// Closes the connection after nats-server has received the replies, and returns how many
    /// requests were taken.
    ///
    /// # Errors
    ///
    /// If requests were taken and not answered. If nats-server does not confirm the last replies,
    /// or has denied the subscription.
    pub async fn close(self) -> Result<u64> {
        let taken = self.taken.get();
        let unanswered = self.unanswered.get() + self.nats.undrained();
        let closed = if taken > 0 && self.nats.connection_state() == State::Connected {
            self.nats.close().await
        } else {
            self.nats.permitted()
        };
        if unanswered > 0 {
            let servers = self.nats.servers();
            bail!("{servers}: {unanswered} requests were taken and not answered");
        }
        closed?;
        Ok(taken)
    }
}
