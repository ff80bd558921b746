//! Jobs: which wait, run, are held back, are done or dead.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Counter, End, Play, any, delivery, own};
use crate::desk::{Desk, several};
use crate::wire::Message;

const STREAM: &str = "$JS.API.STREAM.INFO.jobs";
const DEAD: &str = "$JS.API.STREAM.INFO.jobs_dead";
/// How many jobs are kept.
const JOBS: usize = 120;

/// The state of a job.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Queued,
    Delayed,
    Running,
    Done,
    Dead,
}

/// A job, as the lines and the output of the programs have shown it.
#[derive(Debug)]
struct Job {
    state: State,
    kind: String,
    by: &'static str,
    deliveries: u64,
    /// Its number in the stream, once it was delivered.
    number: u64,
    /// The higher, the later it has changed.
    at: u64,
}

/// The counts of the scene.
#[derive(Debug, Default)]
pub struct Jobs {
    known: BTreeMap<String, Job>,
    changes: u64,
    submitted: u64,
    done: u64,
    again: u64,
    stored: u64,
    delayed: u64,
    dead: u64,
}

impl Jobs {
    fn set(&mut self, id: &str, kind: &str, state: State, by: &'static str) {
        self.changes += 1;
        let at = self.changes;
        if let Some(job) = self.known.get_mut(id) {
            (job.state, job.at) = (state, at);
            if !by.is_empty() {
                job.by = by;
            }
        } else {
            let job = Job { state, kind: kind.into(), by, deliveries: 0, number: 0, at };
            self.known.insert(id.into(), job);
        }
        if self.known.len() > JOBS {
            // Those that are done go first.
            let oldest =
                self.known.iter().min_by_key(|(_, job)| (job.state != State::Done, job.at));
            let oldest = oldest.map(|(id, _)| id.clone());
            oldest.and_then(|id| self.known.remove(&id));
        }
    }
}

impl Play for Jobs {
    fn message(&mut self, desk: &mut Desk, who: &'static str, message: &Message) {
        let payload = || message.json();
        if message.is_sent() && !who.starts_with("job-worker") {
            let (is_new, is_later) = (
                message.subject.starts_with("jobs.new."),
                message.subject.starts_with("jobs.sched."),
            );
            if is_new || is_later {
                desk.flow(who, message, "message");
                desk.beat();
                self.submitted += 1;
                let job = payload();
                let text = |name: &str| job[name].as_str().unwrap_or("?").to_owned();
                let state = if is_later { State::Delayed } else { State::Queued };
                self.set(&text("job_id"), &text("kind"), state, "");
            }
        } else if !message.is_sent()
            && let Some((number, deliveries)) = delivery(&message.reply)
        {
            let job = payload();
            let kind = if !job.is_object() {
                "bad"
            } else if deliveries > 1 {
                "again"
            } else {
                "message"
            };
            desk.flow(who, message, kind);
            self.again += u64::from(deliveries > 1);
            if let Some(id) = job["job_id"].as_str() {
                self.set(id, job["kind"].as_str().unwrap_or("?"), State::Running, who);
                if let Some(job) = self.known.get_mut(id) {
                    (job.deliveries, job.number) = (deliveries, number);
                }
            }
        } else if message.is_sent() && message.subject.starts_with("$JS.ACK.") {
            if message.payload.is_empty() || message.payload.starts_with(b"+ACK") {
                desk.flow(who, message, "ack");
            }
        } else if message.is_sent() && message.subject.starts_with("jobs.dead.") {
            desk.flow(who, message, "bad");
        }
    }

    fn line(&mut self, _desk: &mut Desk, who: &'static str, is_stderr: bool, line: &str) {
        if !who.starts_with("job-worker") || is_stderr {
            return;
        }
        let mut words = line.split_whitespace();
        let (Some(id), Some(word)) = (words.next(), words.next()) else { return };
        let state = match word {
            "done" => State::Done,
            "again" => State::Queued,
            "dead" => State::Dead,
            _ => return,
        };
        self.done += u64::from(state == State::Done);
        if self.known.contains_key(id) {
            self.set(id, "", state, who);
        }
    }

    fn ended(&mut self, desk: &mut Desk, who: &'static str, end: &End) {
        if !who.starts_with("job-worker") {
            if !end.success {
                desk.say(&end.sentence(who));
            }
            return;
        }
        let held =
            self.known.values_mut().filter(|job| job.state == State::Running && job.by == who);
        let mut count = 0;
        for job in held {
            job.state = State::Queued;
            count += 1;
        }
        let how = end.sentence(who);
        desk.kept(&match count {
            0 => format!("{how}: it held no job"),
            _ => format!(
                "{how}: {} that it held will be delivered again, to any worker",
                several(count, "job")
            ),
        });
    }

    fn questions(&self) -> Vec<(&'static str, &'static str)> {
        vec![(STREAM, r#"{"subjects_filter":"jobs.sched.>"}"#), (DEAD, "")]
    }

    fn answered(&mut self, _desk: &mut Desk, subject: &str, answer: &Value) {
        let messages = answer["state"]["messages"].as_u64().unwrap_or_default();
        if subject == DEAD {
            self.dead = messages;
        } else {
            self.stored = messages;
            let delayed = answer["state"]["subjects"].as_object();
            self.delayed = delayed.map_or(0, |subjects| subjects.len() as u64);
        }
    }

    fn seen(&mut self, desk: &mut Desk, subject: &str, payload: &[u8]) {
        if !subject.starts_with("$JS.EVENT.") {
            self.submitted += 1;
            desk.elsewhere("message");
            return;
        }
        // An advisory: no worker gets this job any more.
        let advisory: Value = serde_json::from_slice(payload).unwrap_or_default();
        let number = advisory["stream_seq"].as_u64().unwrap_or_default();
        let job = self.known.iter().find(|(_, job)| job.number == number);
        let which = job.map_or("a job".into(), |(id, job)| format!("{} {id}", job.kind));
        desk.lose(
            1,
            &format!(
                "{which} was delivered {} times, and nats-server offers it to no worker any more",
                advisory["deliveries"].as_u64().unwrap_or_default()
            ),
        );
    }

    fn counters(&self, _desk: &Desk) -> Vec<Counter> {
        let running = self.known.values().filter(|job| job.state == State::Running).count();
        vec![
            any("submitted", self.submitted),
            any("in the queue", self.stored),
            any("of them delayed", self.delayed),
            any("dead letters", self.dead),
            own("with a worker", running as u64),
            own("done", self.done),
            own("delivered again", self.again),
        ]
    }

    fn detail(&self, desk: &Desk) -> Value {
        if desk.is_alone {
            return Value::Null;
        }
        let column = |state: State| {
            let mut jobs: Vec<_> =
                self.known.iter().filter(|(_, job)| job.state == state).collect();
            jobs.sort_by_key(|(_, job)| std::cmp::Reverse(job.at));
            let shown = jobs.iter().take(8);
            let shown: Vec<_> =
                shown.map(|(id, job)| json!([id, job.kind, job.by, job.deliveries])).collect();
            json!({ "count": jobs.len(), "jobs": shown })
        };
        json!({
            "queued": column(State::Queued), "running": column(State::Running),
            "delayed": column(State::Delayed), "done": column(State::Done),
            "dead": column(State::Dead),
        })
    }
}
