//! When to connect again, and when to give up.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rumqttc::ConnectionError;

/// Pauses between attempts grow from the first to the second of these.
const RETRY: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];
/// So many connections in a row, each ended by the broker within so short a time, are no accident.
const CUT_OFF: (u32, Duration) = (3, Duration::from_secs(3));

/// How the connections of a client went so far.
#[derive(Debug, Default)]
pub struct Reconnect {
    since: Option<Instant>,
    /// Failed attempts since the last connection.
    attempts: u32,
    /// Connections that ended right after they were made.
    cut_off: u32,
}

impl Reconnect {
    /// There is a connection.
    pub fn connected(&mut self, now: Instant) {
        self.since = Some(now);
        self.attempts = 0;
    }

    /// Whether there is a connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.since.is_some()
    }

    /// The connection was lost, or an attempt to connect failed: says how long to wait now.
    ///
    /// # Errors
    ///
    /// Where the broker throws us out again and again: of two clients with one id, each throws out
    /// the other when it connects.
    pub fn failed(&mut self, error: &ConnectionError, now: Instant) -> Result<Duration> {
        match self.since.take() {
            Some(since) if now.duration_since(since) < CUT_OFF.1 => self.cut_off += 1,
            Some(_) => self.cut_off = 0,
            // A broker that was away did not throw us out. (nats-server lets the losers of such a
            // fight wait for a second, and then hangs up on them.)
            None if is_away(error) => self.cut_off = 0,
            None => {}
        }
        ensure!(
            self.cut_off < CUT_OFF.0,
            "ended {} connections right after they were made: \
             does another sensor use the id of this one? give each its own with --id",
            self.cut_off
        );
        let delay = delay(self.attempts);
        self.attempts = self.attempts.saturating_add(1);
        Ok(delay)
    }
}

/// Whether nobody was there to connect to.
fn is_away(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::Io(error) => error.kind() == ErrorKind::ConnectionRefused,
        error => matches!(error, ConnectionError::NetworkTimeout),
    }
}

/// Doubles from attempt to attempt, up to a limit. A part of it is chance: a thousand sensors that
/// lost the same broker do not all come back at the same moment.
fn delay(attempts: u32) -> Duration {
    let [first, last] = RETRY;
    let delay = first
        .saturating_mul(2_u32.saturating_pow(attempts))
        .min(last);
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
    fn who_is_thrown_out_again_and_again_gives_in() {
        let now = Instant::now();
        let away = ConnectionError::Io(ErrorKind::ConnectionRefused.into());
        let thrown_out = ConnectionError::Io(ErrorKind::ConnectionAborted.into());
        let lasted = |reconnect: &mut Reconnect, time: Duration| {
            reconnect.connected(now);
            reconnect.failed(&thrown_out, now + time).is_ok()
        };
        let mut reconnect = Reconnect::default();
        let moment = Duration::from_millis(10);
        assert!(lasted(&mut reconnect, moment) && lasted(&mut reconnect, moment));
        assert!(!lasted(&mut reconnect, moment));
        // Neither a broker that is restarted often, nor connections that last.
        let mut reconnect = Reconnect::default();
        for _ in 0..10 {
            assert!(lasted(&mut reconnect, moment) && lasted(&mut reconnect, moment));
            assert!(reconnect.failed(&away, now).is_ok());
            assert!(lasted(&mut reconnect, moment) && lasted(&mut reconnect, moment));
            assert!(lasted(&mut reconnect, CUT_OFF.1));
        }
    }
}
