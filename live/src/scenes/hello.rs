//! A program that publishes and gets its own message back, among strangers.

use serde_json::{Value, json};

use super::{Counter, End, Play, any, own};
use crate::desk::Desk;
use crate::wire::Message;

const SUBJECT: &str = "hello";
const GREETING: &str = "Hello World!";

/// The counts of the scene.
#[derive(Debug, Default)]
pub struct Hello {
    /// Messages of `hello` itself.
    sent: u64,
    runs: u64,
    own: u64,
    wrong: u64,
    strangers: u64,
    /// What the last run has printed.
    printed: String,
}

impl Play for Hello {
    fn message(&mut self, desk: &mut Desk, who: &'static str, message: &Message) {
        if message.subject == SUBJECT {
            let is_own = message.payload == GREETING.as_bytes();
            desk.flow(who, message, if is_own { "message" } else { "ack" });
            self.sent += u64::from(is_own && message.is_sent());
            desk.beat();
        }
    }

    fn started(&mut self, _desk: &mut Desk, _who: &'static str) {
        self.runs += 1;
    }

    fn line(&mut self, desk: &mut Desk, who: &'static str, is_stderr: bool, line: &str) {
        if is_stderr {
            return;
        }
        line.clone_into(&mut self.printed);
        if line == GREETING {
            self.own += 1;
        } else {
            self.wrong += 1;
            let which = if desk.is_first(who) { "the first version" } else { who };
            desk.lose(1, &format!("{which} printed a stranger's message and ended: {line:?}"));
        }
    }

    fn ended(&mut self, desk: &mut Desk, who: &'static str, end: &End) {
        if !end.success {
            desk.say(&end.sentence(who));
        }
    }

    fn published(&mut self, desk: &mut Desk) {
        self.strangers += 1;
        desk.page("ack");
    }

    fn seen(&mut self, desk: &mut Desk, _subject: &str, payload: &[u8]) {
        let is_own = payload == GREETING.as_bytes();
        *(if is_own { &mut self.sent } else { &mut self.strangers }) += 1;
        desk.elsewhere(if is_own { "message" } else { "ack" });
    }

    fn counters(&self, _desk: &Desk) -> Vec<Counter> {
        vec![
            own("runs of hello", self.runs),
            any("messages of hello", self.sent),
            own("own message printed", self.own),
            own("stranger's message printed", self.wrong),
            any("messages of strangers", self.strangers),
        ]
    }

    fn detail(&self, desk: &Desk) -> Value {
        if desk.is_alone {
            return Value::Null;
        }
        json!({ "printed": self.printed, "is_own": self.printed == GREETING })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_message_that_is_printed_counts_as_lost() {
        let (mut hello, mut desk) = (Hello::default(), Desk::default());
        hello.line(&mut desk, "hello", false, GREETING);
        assert_eq!((hello.own, hello.wrong, desk.lost), (1, 0, 0));
        hello.line(&mut desk, "hello", false, "Is this thing on?");
        assert_eq!((hello.own, hello.wrong, desk.lost), (1, 1, 1));
    }
}
