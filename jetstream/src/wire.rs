//! Whether a request can still be answered.

use std::sync::atomic::Ordering::Relaxed;

use async_nats::Client;
use async_nats::connection::State;

/// The connection as it was when something was asked of the server. What was asked has gone with
/// it: after a reconnect the server does not answer, and the client does not ask again.
#[derive(Debug)]
pub struct Connection<'a> {
    client: &'a Client,
    number: u64,
}

impl<'a> Connection<'a> {
    /// The one that there is now.
    #[must_use]
    pub fn of(client: &'a Client) -> Self {
        let number = client.statistics().connects.load(Relaxed);
        Self { client, number }
    }

    /// Whether it is gone, and perhaps another one there.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.client.connection_state() != State::Connected
            || self.client.statistics().connects.load(Relaxed) != self.number
    }
}
