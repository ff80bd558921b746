//! Workers that share log entries: what each has received, and what it has printed.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Cause, Counter, End, Play, any, own};
use crate::desk::{Desk, grouped, several};
use crate::wire::Message;

const SUBJECT: &str = "logs.process";
/// A message that was published so long ago and has not reached a worker has not found one.
const LATE: Duration = Duration::from_millis(2_500);

/// What one process of a worker has done.
#[derive(Debug, Default)]
struct Worker {
    received: u64,
    printed: u64,
    /// Messages that are no log entries, which it has skipped, or has ended with.
    skipped: u64,
    has_ended: bool,
}

impl Worker {
    fn waiting(&self) -> u64 {
        if self.has_ended {
            return 0;
        }
        self.received.saturating_sub(self.printed + self.skipped)
    }
}

/// The counts of the scene.
#[derive(Debug, Default)]
pub struct QueueGroups {
    workers: BTreeMap<&'static str, Worker>,
    published: u64,
    delivered: u64,
    handled: u64,
    skipped: u64,
    gone: u64,
    /// How many were published at some time, for the last seconds.
    past: VecDeque<(Instant, u64)>,
    /// How many were published so long ago that they should have reached a worker.
    due: u64,
    /// How many never reached a worker, and have been told of.
    unheard: u64,
    /// The same, not told yet, and since when it has not grown.
    pending: (u64, Option<Instant>),
    cut: Option<Instant>,
    was_down: bool,
}

impl QueueGroups {
    /// How many have come to no worker, of those that were published some time ago.
    fn late(&mut self, desk: &Desk, now: Instant) -> u64 {
        self.past.push_back((now, self.published));
        while let Some((_, count)) = self.past.front().filter(|(at, _)| now - *at > LATE) {
            self.due = *count;
            self.past.pop_front();
        }
        // What a cut line holds back may come yet.
        if desk.is_cut() {
            self.cut = Some(now);
        }
        if self.cut.is_some_and(|at| now - at < LATE) {
            return 0;
        }
        self.due.saturating_sub(self.delivered + self.unheard)
    }
}

impl Play for QueueGroups {
    fn message(&mut self, desk: &mut Desk, who: &'static str, message: &Message) {
        if message.subject != SUBJECT {
            return;
        }
        let is_log = message.payload.first() == Some(&b'{');
        desk.flow(who, message, if is_log { "message" } else { "bad" });
        if message.is_sent() {
            self.published += 1;
            desk.beat();
        } else {
            self.delivered += 1;
            self.workers.entry(who).or_default().received += 1;
        }
    }

    fn line(&mut self, _desk: &mut Desk, who: &'static str, is_stderr: bool, line: &str) {
        let worker = self.workers.entry(who).or_default();
        if !is_stderr && line.contains(": log ") {
            worker.printed += 1;
            self.handled += 1;
        } else if is_stderr && line.contains("skipped a message") {
            worker.skipped += 1;
            self.skipped += 1;
        }
    }

    fn started(&mut self, _desk: &mut Desk, who: &'static str) {
        self.workers.insert(who, Worker::default());
    }

    fn ended(&mut self, desk: &mut Desk, who: &'static str, end: &End) {
        if who == "log-publisher" {
            if !end.success {
                desk.say(&end.sentence(who));
            }
            return;
        }
        let worker = self.workers.entry(who).or_default();
        if end.cause == Cause::Itself && end.first && worker.waiting() > 0 {
            // The message that has ended it.
            worker.skipped += 1;
            self.skipped += 1;
        }
        let (lost, how) = (worker.waiting(), end.sentence(who));
        worker.has_ended = true;
        let worker = &*worker;
        self.gone += lost;
        match lost {
            0 if worker.received == 0 => desk.say(&format!("{how}: it had received no log entry")),
            0 => desk.kept(&format!(
                "{how}: it had printed all of the {} log entries that it had received",
                grouped(worker.received - worker.skipped)
            )),
            1 => desk
                .lose(1, &format!("{how}: 1 message that it had received and not printed is gone")),
            _ => {
                let lost_text = several(lost, "message");
                desk.lose(
                    lost,
                    &format!("{how}: {lost_text} that it had received and not printed are gone"),
                );
            }
        }
    }

    fn server(&mut self, _desk: &mut Desk, is_up: bool) {
        self.was_down |= !is_up;
    }

    fn tick(&mut self, desk: &mut Desk, now: Instant) {
        let late = self.late(desk, now);
        if late == 0 {
            self.pending = (0, None);
            return;
        }
        // One sentence when it has stopped growing, or every 5 s.
        let (seen, since) = self.pending;
        let since = since.unwrap_or(now);
        self.pending = (late, Some(since));
        if late != seen && now - since < Duration::from_secs(5) {
            return;
        }
        self.pending = (0, None);
        self.unheard += late;
        self.gone += late;
        let why = if std::mem::take(&mut self.was_down) {
            "nats-server was away"
        } else {
            "no worker was subscribed, or its connection broke"
        };
        desk.lose(late, &format!("{why}: {} reached no worker", several(late, "message")));
    }

    fn published(&mut self, desk: &mut Desk) {
        self.published += 1;
        desk.page("bad");
    }

    fn seen(&mut self, desk: &mut Desk, _subject: &str, _payload: &[u8]) {
        self.published += 1;
        desk.elsewhere("message");
    }

    fn note(&self, who: &str) -> String {
        match self.workers.get(who) {
            // One that has ended before it had received anything says nothing.
            Some(worker) if worker.received == 0 && worker.has_ended => String::new(),
            Some(worker) if who != "log-publisher" => format!(
                "{} received, {} printed",
                grouped(worker.received),
                grouped(worker.printed)
            ),
            _ => String::new(),
        }
    }

    fn counters(&self, _desk: &Desk) -> Vec<Counter> {
        vec![
            any("published", self.published),
            own("printed by a worker", self.handled),
            own("waiting in workers", self.workers.values().map(Worker::waiting).sum()),
            own("bad, skipped", self.skipped),
            own("gone", self.gone),
        ]
    }

    fn detail(&self, desk: &Desk) -> Value {
        if desk.is_alone {
            return Value::Null;
        }
        let workers = self.workers.iter().filter(|(id, _)| desk.runs(id));
        let bars: Vec<_> = workers
            .filter(|(id, _)| **id != "log-publisher")
            .map(|(id, worker)| json!([id, worker.waiting(), worker.printed]))
            .collect();
        json!({ "bars": bars })
    }
}
