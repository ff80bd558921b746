//! When to connect again, and when to give up.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rumqttc::ConnectionError;

/// Pauses between attempts to reconnect grow from the first to the second of these.
const RETRY: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];
/// The client gives up after this many connections in a row that the broker ended …
const MAX_SHORT: u32 = 3;
/// … within this time after they were made.
const SHORT: Duration = Duration::from_secs(3);

/// The history of a client's connections.
#[derive(Debug, Default)]
pub struct Reconnect {
    since: Option<Instant>,
    /// Failed attempts since the last connection.
    attempts: u32,
    /// Short connections in a row.
    short: u32,
}

impl Reconnect {
    /// Notes that there is a connection.
    pub fn connected(&mut self, now: Instant) {
        self.since = Some(now);
        self.attempts = 0;
    }

    /// Whether there is a connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.since.is_some()
    }

    /// Notes that the connection was lost, or an attempt to connect failed. Returns the pause before
    /// the next attempt.
    ///
    /// # Errors
    ///
    /// If the broker ends one connection after the other: when a client connects, the broker
    /// disconnects another one with the same id.
    pub fn failed(&mut self, error: &ConnectionError, now: Instant) -> Result<Duration> {
        match self.since.take() {
            Some(since) if now.duration_since(since) < SHORT => self.short += 1,
            Some(_) => self.short = 0,
            // A broker that was away has not disconnected this client because of its id. (In such a
            // fight nats-server lets the loser wait for a second, and then closes its connection.)
            None if is_away(error) => self.short = 0,
            None => {}
        }
        ensure!(
            self.short < MAX_SHORT,
            "ended {} connections right after they were made: \
             does another sensor use the id of this one? give each its own with --id",
            self.short
        );
        let delay = delay(self.attempts);
        self.attempts = self.attempts.saturating_add(1);
        Ok(delay)
    }
}

/// Whether nothing listened at the broker's address.
fn is_away(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::Io(error) => error.kind() == ErrorKind::ConnectionRefused,
        error => matches!(error, ConnectionError::NetworkTimeout),
    }
}

/// The pause before an attempt: doubles each time, up to a limit, with a random part. A thousand
/// sensors that lost the same broker do not all reconnect at the same moment.
fn delay(attempts: u32) -> Duration {
    let [first, last] = RETRY;
    let delay = first.saturating_mul(2_u32.saturating_pow(attempts)).min(last);
    delay.mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_between_attempts_grow_to_a_limit() {
        assert!(delay(0) <= RETRY[0]);
        assert!(delay(3) >= RETRY[0] * 4);
        for attempts in [10, 100, u32::MAX] {
            assert!((RETRY[1] / 2..=RETRY[1]).contains(&delay(attempts)));
        }
    }

    #[test]
    fn a_client_that_is_disconnected_again_and_again_gives_up() {
        let now = Instant::now();
        let away = ConnectionError::Io(ErrorKind::ConnectionRefused.into());
        let aborted = ConnectionError::Io(ErrorKind::ConnectionAborted.into());
        let lasted = |reconnect: &mut Reconnect, time: Duration| {
            reconnect.connected(now);
            reconnect.failed(&aborted, now + time).is_ok()
        };
        let mut reconnect = Reconnect::default();
        let moment = Duration::from_millis(10);
        assert!(lasted(&mut reconnect, moment) && lasted(&mut reconnect, moment));
        assert!(!lasted(&mut reconnect, moment));
        // Not if the broker is restarted often, or connections last.
        let mut reconnect = Reconnect::default();
        for _ in 0..10 {
            assert!(lasted(&mut reconnect, moment) && lasted(&mut reconnect, moment));
            assert!(reconnect.failed(&away, now).is_ok());
            assert!(lasted(&mut reconnect, moment) && lasted(&mut reconnect, moment));
            assert!(lasted(&mut reconnect, SHORT));
        }
    }
}
