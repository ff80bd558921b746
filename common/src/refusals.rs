//! A connection that nats-server accepted once and refuses now: its user was removed, its password
//! changed, its JWT has expired.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_nats::Event;

/// Pause before the first attempt to connect after a refusal. It doubles with each further refusal.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause: a program works again soon after its user is put right.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// nats-server accepts a JWT that has expired, and ends the connection at once. A connection that
/// lasts this long was not refused.
pub(crate) const HOLDS: Duration = Duration::from_secs(1);

/// How often the connection was refused since it last held.
#[derive(Debug, Default)]
pub(crate) struct Refusals(AtomicU32);

impl Refusals {
    /// Returns whether it is the first one.
    pub(crate) fn add(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) == 0
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// The pause before the next attempt to connect; none if the connection is not refused.
    pub(crate) fn pause(&self) -> Option<Duration> {
        let doublings = self.0.load(Ordering::Relaxed).checked_sub(1)?;
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
        assert_eq!(refusals.pause(), None);
        let pauses: Vec<_> = (0..40)
            .map(|_| {
                refusals.add();
                refusals.pause().unwrap_or_default().as_millis()
            })
            .collect();
        assert_eq!(pauses[..6], [100, 200, 400, 800, 1_600, 2_000]);
        assert_eq!(pauses[39], 2_000);
        refusals.end();
        assert!(!refusals.is_refused() && refusals.pause().is_none());
    }
}
