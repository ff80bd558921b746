//! Acknowledgements that nats-server confirms.

use std::time::Duration;

use async_nats::jetstream::{AckKind, Message};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Time for a last attempt when the program ends.
const LAST_ATTEMPT: Duration = Duration::from_millis(500);

/// Messages, and what to answer to each of them.
type Answers = Vec<(Message, AckKind)>;

/// Acknowledges messages in the background, and knows which acknowledgements nats-server has
/// confirmed.
///
/// [`Message::ack_with`] only hands an acknowledgement to the client's buffer. If it is lost with the
/// connection, the message is delivered again. nats-server handles what a connection sends in order,
/// so a confirmation of the last one ([`Message::double_ack_with`]) is a confirmation of all of them.
///
/// It does not wait for one confirmation before it takes the next messages: a server that has crashed
/// does not answer acknowledgements of deliveries that it has forgotten.
#[derive(Debug, Default)]
pub struct Acknowledgements {
    /// Each attempt returns what nats-server has not confirmed.
    attempts: JoinSet<Answers>,
}

impl Acknowledgements {
    /// Acknowledges messages, and again those whose confirmation did not come.
    pub fn send(&mut self, mut answers: Answers) {
        while let Some(attempt) = self.attempts.try_join_next() {
            answers.splice(0..0, attempt.unwrap_or_default());
        }
        self.attempts.spawn(acknowledge(answers));
    }

    /// Waits for the confirmations. Returns how many acknowledgements are not confirmed in the end:
    /// these messages may be delivered again.
    pub async fn unconfirmed(self) -> usize {
        let unconfirmed: Answers = self.attempts.join_all().await.into_iter().flatten().collect();
        let count = unconfirmed.len();
        timeout(LAST_ATTEMPT, acknowledge(unconfirmed)).await.map_or(count, |answers| answers.len())
    }
}

/// Returns the messages if nats-server does not confirm.
async fn acknowledge(answers: Answers) -> Answers {
    if confirm(&answers).await.is_ok() { Vec::new() } else { answers }
}

async fn confirm(answers: &[(Message, AckKind)]) -> Result<(), async_nats::Error> {
    let Some(((last, answer), others)) = answers.split_last() else {
        return Ok(());
    };
    for (message, answer) in others {
        message.ack_with(*answer).await?;
    }
    last.double_ack_with(*answer).await
}
