//! A connection that nats-server accepted once and refuses now: its user was removed, its password
//! changed, its JWT has expired.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_nats::Event;

/// Pause before the first attempt to connect after a refusal. It doubles with each further attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause: a program works again soon after its user is put right.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// nats-server accepts a JWT that has expired, and ends the connection at once. A connection that
/// lasts this long was not refused.
pub(crate) const HOLDS: Duration = Duration::from_secs(1);

/// Whether the connection was refused since it last held, and the attempts to connect since then.
///
/// The pauses grow with the attempts and not with the refusals: the client library reports a refusal
/// on another task, perhaps after it has asked for the next pause.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    refused: AtomicBool,
    attempts: AtomicU32,
}

impl Refusals {
    /// Returns whether it is the first one.
    pub(crate) fn add(&self) -> bool {
        !self.refused.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self) {
        self.refused.store(false, Ordering::Relaxed);
        self.attempts.store(0, Ordering::Relaxed);
    }

    /// The pause before the next attempt to connect; none if the connection is not refused.
    pub(crate) fn next_pause(&self) -> Option<Duration> {
        if !self.is_refused() {
            return None;
        }
        let doublings = self.attempts.fetch_add(1, Ordering::Relaxed);
        let pause = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX));
        Some(pause.min(LONGEST_PAUSE))
    }
}

/// Why the connection is refused, if that is what the event says.
pub(crate) fn reason(event: &Event) -> Option<&'static str> {
    let error = match event {
        Event::ServerError(error) => error.to_string().to_lowercase(),
        // An attempt to reconnect has failed.
        Event::ClientError(error) => error.to_string().to_lowercase(),
        _ => return None,
    };
    let reasons = [
        (
            "authorization violation",
            "its user, password, key or certificate is not accepted any more",
        ),
        ("user authentication expired", "its credentials have expired"),
        ("user authentication revoked", "its credentials were revoked"),
        ("account authentication expired", "its account has expired"),
        ("account active connections exceeded", "its account has more connections than it may"),
    ];
    reasons.into_iter().find(|(text, _)| error.contains(text)).map(|(_, reason)| reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_start_again() {
        let refusals = Refusals::default();
        assert_eq!(refusals.next_pause(), None);
        assert!(refusals.add());
        let pauses: Vec<_> =
            (0..40).map(|_| refusals.next_pause().unwrap_or_default().as_millis()).collect();
        assert_eq!(pauses[..6], [100, 200, 400, 800, 1_600, 2_000]);
        assert_eq!(pauses[39], 2_000);
        assert!(!refusals.add());
        refusals.end();
        assert_eq!(refusals.next_pause(), None);
        assert!(refusals.add());
        assert_eq!(refusals.next_pause(), Some(FIRST_PAUSE));
    }
}
