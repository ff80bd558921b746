//! Requests and replies: how many are in flight, how long they take, which get no reply.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Cause, Counter, End, Play, any, own};
use crate::desk::{Desk, grouped, several};
use crate::wire::Message;

const SUBJECT: &str = "math.sum";
const CLIENT: &str = "math-client";
/// math-client gives up after 2 s.
const TIMEOUT: Duration = Duration::from_millis(2_500);
/// Upper bounds of the histogram, in milliseconds.
const BOUNDS: [u64; 10] = [5, 10, 11, 12, 15, 20, 50, 100, 500, 2_500];

/// Something that may cost replies, and the counts when it began.
#[derive(Debug)]
struct Incident {
    what: String,
    at: Instant,
    is_over: bool,
    sent: u64,
    lost: u64,
}

/// The counts of the scene.
#[derive(Debug, Default)]
pub struct Rpc {
    /// When each request in flight was sent, by the subject of its reply.
    open: HashMap<String, Instant>,
    sent: u64,
    replied: u64,
    /// No server was there: the client learns that at once, and asks again.
    refused: u64,
    lost: u64,
    histogram: [u64; BOUNDS.len() + 1],
    incident: Option<Incident>,
    handled: HashMap<&'static str, u64>,
    rolling: u64,
}

impl Rpc {
    fn begin(&mut self, what: String, is_over: bool) {
        let at = Instant::now();
        if let Some(incident) = &mut self.incident {
            if !incident.what.contains(&what) && incident.what.len() < 120 {
                incident.what = format!("{}, {what}", incident.what);
            }
            (incident.at, incident.is_over) = (at, is_over);
        } else {
            let (sent, lost) = (self.sent - self.open.len() as u64, self.lost);
            self.incident = Some(Incident { what, at, is_over, sent, lost });
        }
    }

    fn lose(&mut self, count: usize) {
        self.lost += count as u64;
    }
}

impl Play for Rpc {
    fn message(&mut self, desk: &mut Desk, who: &'static str, message: &Message) {
        let is_request = message.subject == SUBJECT;
        if who != CLIENT {
            if is_request {
                *self.handled.entry(who).or_default() += 1;
                desk.flow(who, message, "message");
            } else if message.is_sent() && message.subject.starts_with("_INBOX.") {
                // An error reply is empty, and has headers. One without headers is the echo by which a
                // server learns that nats-server has handled what it sent before.
                if !message.payload.is_empty() {
                    desk.flow(who, message, "reply");
                } else if message.has_headers {
                    desk.flow(who, message, "bad");
                }
            }
        } else if is_request {
            self.sent += 1;
            self.open.insert(message.reply.clone(), Instant::now());
            desk.flow(who, message, "message");
            desk.beat();
        } else if let Some(asked) = self.open.remove(&message.subject) {
            if message.status == Some(503) {
                self.refused += 1;
                desk.flow(who, message, "bad");
                return;
            }
            self.replied += 1;
            desk.flow(who, message, "reply");
            let took = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
            let at = BOUNDS.iter().position(|bound| took < *bound).unwrap_or(BOUNDS.len());
            self.histogram[at] += 1;
        }
    }

    fn started(&mut self, _desk: &mut Desk, who: &'static str) {
        self.handled.insert(who, 0);
    }

    fn ended(&mut self, desk: &mut Desk, who: &'static str, end: &End) {
        if who != CLIENT {
            if self.rolling == 0 {
                self.begin(end.sentence(who), true);
            }
            return;
        }
        let open = std::mem::take(&mut self.open).len();
        if !end.success || end.cause != Cause::Itself {
            let text = several(open as u64, "request");
            desk.say(&format!("{}: {text} had no reply yet", end.sentence(who)));
        }
        if end.cause == Cause::Itself {
            self.lose(open);
        }
    }

    fn server(&mut self, _desk: &mut Desk, is_up: bool) {
        self.begin("nats-server was away".into(), is_up);
    }

    fn tick(&mut self, desk: &mut Desk, now: Instant) {
        let before = self.open.len();
        self.open.retain(|_, asked| now.duration_since(*asked) < TIMEOUT);
        self.lose(before - self.open.len());
        let is_due = self.incident.as_ref().is_some_and(|incident| {
            incident.is_over && now.duration_since(incident.at) > TIMEOUT + TIMEOUT / 5
        });
        if is_due && let Some(incident) = self.incident.take() {
            let (lost, sent) = (self.lost - incident.lost, self.sent - incident.sent);
            let text = format!(
                "{}: {} of {} lost",
                incident.what,
                grouped(lost),
                several(sent, "request")
            );
            if lost > 0 { desk.lose(lost, &text) } else { desk.kept(&text) }
        }
    }

    fn answered(&mut self, _desk: &mut Desk, subject: &str, answer: &Value) {
        match (subject, answer["servers"].as_u64()) {
            ("rolling: begin", Some(servers)) => {
                self.rolling = servers;
                self.begin(format!("rolling restart of {servers} servers"), false);
            }
            ("rolling: end", _) => {
                let what = format!("rolling restart of {} servers", self.rolling);
                self.begin(what, true);
                self.rolling = 0;
            }
            _ => {}
        }
    }

    fn seen(&mut self, desk: &mut Desk, _subject: &str, payload: &[u8]) {
        // All kinds of answers come to an inbox.
        if payload.starts_with(b"{\"result\":") {
            self.replied += 1;
            desk.elsewhere("reply");
        }
    }

    fn note(&self, who: &str) -> String {
        match self.handled.get(who) {
            Some(handled) if who != CLIENT => several(*handled, "request"),
            _ => String::new(),
        }
    }

    fn counters(&self, _desk: &Desk) -> Vec<Counter> {
        vec![
            own("requests", self.sent),
            any("replies", self.replied),
            own("in flight", self.open.len() as u64),
            own("refused at once: no server", self.refused),
            own("without a reply", self.lost),
        ]
    }

    fn detail(&self, desk: &Desk) -> Value {
        if desk.is_alone {
            return Value::Null;
        }
        json!({
            "bounds": BOUNDS, "histogram": self.histogram, "in_flight": self.open.len(),
            "rolling": self.rolling > 0,
        })
    }
}
