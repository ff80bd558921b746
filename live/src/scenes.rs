//! What each scene makes of what is seen: messages on the lines of its programs, the lines that they
//! print, how they end, and answers of nats-server.

mod hello;
mod jetstream;
mod jobs;
mod kv;
mod mqtt;
mod queue_groups;
mod rpc;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Instant;

use serde_json::{Value, json};

use crate::cast::Plan;
use crate::desk::{Desk, grouped};
use crate::wire::Message;

/// Why a program has ended.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Cause {
    /// By itself.
    #[default]
    Itself,
    /// It was sent SIGTERM.
    Stopped,
    /// It was sent SIGKILL.
    Killed,
}

/// How a program has ended.
#[derive(Debug)]
pub struct End {
    /// Whether it was the first version.
    pub first: bool,
    /// Why.
    pub cause: Cause,
    /// Exit code or signal, in words.
    pub status: String,
    /// Whether the exit code was 0.
    pub success: bool,
}

impl End {
    /// "ann was killed", "ann (first version) was killed"
    #[must_use]
    pub fn sentence(&self, who: &str) -> String {
        let who = if self.first { format!("{who} (first version)") } else { who.to_owned() };
        match self.cause {
            Cause::Killed => format!("{who} was killed"),
            Cause::Stopped => format!("{who} was stopped"),
            Cause::Itself => format!("{who} ended by itself ({})", self.status),
        }
    }
}

/// A name and a value.
#[derive(Debug)]
pub struct Counter {
    name: &'static str,
    value: String,
    /// Whether it is known of the page's own programs only, and not of those on a server of one's own.
    is_own: bool,
}

/// A count that is known of any programs.
fn any(name: &'static str, count: u64) -> Counter {
    Counter { name, value: grouped(count), is_own: false }
}

/// A count that is known of the page's own programs only.
fn own(name: &'static str, count: u64) -> Counter {
    Counter { name, value: grouped(count), is_own: true }
}

/// What is particular to a scene.
pub trait Play: Debug + Send {
    /// A message has come from a program, or from nats-server for it.
    fn message(&mut self, desk: &mut Desk, who: &'static str, message: &Message);

    /// A program has printed a line.
    fn line(&mut self, _desk: &mut Desk, _who: &'static str, _is_stderr: bool, _line: &str) {}

    /// A program was started.
    fn started(&mut self, _desk: &mut Desk, _who: &'static str) {}

    /// A program has ended, and all that it has printed was read.
    fn ended(&mut self, _desk: &mut Desk, _who: &'static str, _end: &End) {}

    /// nats-server has gone, or is back.
    fn server(&mut self, _desk: &mut Desk, _is_up: bool) {}

    /// Some time has passed.
    fn tick(&mut self, _desk: &mut Desk, _now: Instant) {}

    /// This page has published a message that is meant to be bad.
    fn published(&mut self, desk: &mut Desk) {
        desk.page("bad");
    }

    /// A subscription of this page's own has received a message.
    fn seen(&mut self, _desk: &mut Desk, _subject: &str, _payload: &[u8]) {}

    /// nats-server has answered a question of [`Play::questions`].
    fn answered(&mut self, _desk: &mut Desk, _subject: &str, _answer: &Value) {}

    /// Requests to JetStream, subject and payload, which are sent twice a second.
    fn questions(&self) -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }

    /// What stands in a program's box.
    fn note(&self, _who: &str) -> String {
        String::new()
    }

    /// What is counted.
    fn counters(&self, desk: &Desk) -> Vec<Counter>;

    /// What the scene's own picture is drawn from.
    fn detail(&self, _desk: &Desk) -> Value {
        Value::Null
    }
}

/// A scene.
#[derive(Debug)]
pub struct Scene {
    /// What is the same in each.
    pub desk: Desk,
    /// What is particular.
    pub play: Box<dyn Play>,
}

impl Scene {
    /// The scene of a plan.
    #[must_use]
    pub fn new(experiment: &Plan) -> Self {
        let play: Box<dyn Play> = match experiment.id {
            "hello" => Box::new(hello::Hello::default()),
            "queue-groups" => Box::new(queue_groups::QueueGroups::default()),
            "rpc" => Box::new(rpc::Rpc::default()),
            "jetstream" => Box::new(jetstream::JetStream::default()),
            "kv" => Box::new(kv::Kv::default()),
            "mqtt-bridge" => Box::new(mqtt::Mqtt::default()),
            _ => Box::new(jobs::Jobs::default()),
        };
        Self { desk: Desk::default(), play }
    }

    /// What the page shows of it, by name. The page gets those that have changed.
    #[must_use]
    pub fn sections(&self) -> BTreeMap<String, Value> {
        let mut sections = BTreeMap::new();
        self.desk.show(&mut sections, |id| self.play.note(id));
        let counters = self.play.counters(&self.desk).into_iter();
        let counters = counters.filter(|counter| !(counter.is_own && self.desk.is_alone));
        let counters: Vec<_> = counters.map(|it| json!([it.name, it.value])).collect();
        sections.insert("counters".into(), json!(counters));
        sections.insert("detail".into(), self.play.detail(&self.desk));
        sections
    }
}

/// The stream sequence and the number of the delivery in the subject to which a message of JetStream
/// is acknowledged. It has nine tokens, or three more in the newer form.
fn delivery(reply: &str) -> Option<(u64, u64)> {
    let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let at = if tokens.len() >= 9 { 4 } else { 2 };
    Some((tokens.get(at + 1)?.parse().ok()?, tokens.get(at)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_acknowledgement_are_read() {
        assert_eq!(delivery("$JS.ACK.s.c.2.17.9.1.0"), Some((17, 2)));
        assert_eq!(delivery("$JS.ACK._.hash.s.c.2.17.9.1.0"), Some((17, 2)));
        assert_eq!(delivery("_INBOX.x"), None);
    }
}
