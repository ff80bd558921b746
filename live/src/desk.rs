//! What is known about a scene, in bounded memory: counts, the last lines, what was lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::wire::Message;

/// Lines that are kept of a program.
const LINES: usize = 3;
/// Longer ones are cut.
const LONGEST: usize = 160;
/// Sentences that are kept.
const EVENTS: usize = 40;
/// Seconds of the rate that are kept.
const SECONDS: usize = 90;

/// What a program does, and what it has printed.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a button of the page")]
pub struct View {
    /// Whether it runs.
    pub runs: bool,
    /// The id of its process, if it runs.
    pub pid: Option<u32>,
    /// How it ended, or that it runs.
    pub state: String,
    /// Whether it is the first version.
    pub first: bool,
    /// Whether its line is cut.
    pub cut: bool,
    /// Whether its line is slow.
    pub slow: bool,
    /// Its last lines; the flag says that one comes from stderr.
    lines: VecDeque<(bool, String)>,
}

impl View {
    fn json(&self, note: &str) -> Value {
        let lines: Vec<_> = self.lines.iter().map(|(err, text)| json!([err, text])).collect();
        json!({
            "runs": self.runs, "pid": self.pid, "state": self.state, "first": self.first, "cut": self.cut,
            "slow": self.slow, "lines": lines, "note": note,
        })
    }
}

/// The part of a scene that is the same for all.
#[derive(Debug)]
pub struct Desk {
    views: BTreeMap<&'static str, View>,
    /// The buttons of the scene that are switched on.
    on: BTreeSet<&'static str>,
    /// Messages so far, by program, way and kind: each is a dot.
    flows: BTreeMap<String, u64>,
    /// Messages in each of the last seconds.
    rate: VecDeque<u64>,
    second: (Instant, u64),
    /// What has happened, with a number for each.
    events: VecDeque<Value>,
    numbered: u64,
    /// Messages, requests or readings that are gone.
    pub lost: u64,
    /// Whether there are no programs of this page's own.
    pub is_alone: bool,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            views: BTreeMap::new(),
            on: BTreeSet::new(),
            flows: BTreeMap::new(),
            rate: VecDeque::new(),
            second: (Instant::now(), 0),
            events: VecDeque::new(),
            numbered: 0,
            lost: 0,
            is_alone: false,
        }
    }
}

impl Desk {
    /// A program's view.
    pub fn view(&mut self, id: &'static str) -> &mut View {
        self.views.entry(id).or_default()
    }

    /// Whether a program runs.
    #[must_use]
    pub fn runs(&self, id: &str) -> bool {
        self.views.get(id).is_some_and(|view| view.runs)
    }

    /// Whether a program is the first version.
    #[must_use]
    pub fn is_first(&self, id: &str) -> bool {
        self.views.get(id).is_some_and(|view| view.first)
    }

    /// Whether a line of the scene is cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.views.values().any(|view| view.cut)
    }

    /// Notes that a button of the scene is switched on, or off.
    pub fn set(&mut self, action: &'static str, is_on: bool) {
        if is_on {
            self.on.insert(action);
        } else {
            self.on.remove(action);
        }
    }

    /// Counts a message that is drawn, of some kind.
    pub fn flow(&mut self, who: &str, message: &Message, kind: &str) {
        let way = if message.is_sent() { "out" } else { "in" };
        self.count(&format!("{who}:{way}:{kind}"));
    }

    /// Counts a message that this page has published.
    pub fn page(&mut self, kind: &str) {
        self.count(&format!("page:out:{kind}"));
    }

    /// Counts a message that was seen, and not on a line: it is drawn from the place of programs
    /// that others have started. Does nothing if the lines of the programs are seen.
    pub fn elsewhere(&mut self, kind: &str) {
        if self.is_alone {
            self.count(&format!("elsewhere:out:{kind}"));
            self.beat();
        }
    }

    fn count(&mut self, key: &str) {
        if let Some(count) = self.flows.get_mut(key) {
            *count += 1;
        } else {
            self.flows.insert(key.to_owned(), 1);
        }
    }

    /// Counts a message for the rate.
    pub fn beat(&mut self) {
        self.second.1 += 1;
    }

    /// Forgets the lines of a program's earlier process.
    pub fn clear_lines(&mut self, id: &'static str) {
        self.view(id).lines.clear();
    }

    /// Notes a line of a program.
    pub fn line(&mut self, id: &'static str, is_stderr: bool, line: &str) {
        let text = plain(line).chars().take(LONGEST).collect();
        let lines = &mut self.view(id).lines;
        lines.push_back((is_stderr, text));
        if lines.len() > LINES {
            lines.pop_front();
        }
    }

    /// Notes what happened.
    pub fn say(&mut self, text: &str) {
        self.event("fact", text);
    }

    /// Notes what happened, and that nothing was lost by it.
    pub fn kept(&mut self, text: &str) {
        self.event("kept", text);
    }

    /// Notes that `count` are gone, and why.
    pub fn lose(&mut self, count: u64, text: &str) {
        self.lost += count;
        self.event("lost", text);
    }

    fn event(&mut self, kind: &str, text: &str) {
        self.numbered += 1;
        self.events.push_back(json!({ "n": self.numbered, "kind": kind, "text": text }));
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }

    /// Closes the second if it is over.
    pub fn tick(&mut self, now: Instant) {
        while now.duration_since(self.second.0) >= Duration::from_secs(1) {
            self.rate.push_back(self.second.1);
            if self.rate.len() > SECONDS {
                self.rate.pop_front();
            }
            self.second = (self.second.0 + Duration::from_secs(1), 0);
        }
    }

    /// Puts what the page shows into `sections`.
    pub fn show(&self, sections: &mut BTreeMap<String, Value>, note: impl Fn(&str) -> String) {
        for (id, view) in &self.views {
            sections.insert(format!("program:{id}"), view.json(&note(id)));
        }
        sections.insert("on".into(), json!(self.on));
        sections.insert("flows".into(), json!(self.flows));
        sections.insert("rate".into(), json!(self.rate));
        sections.insert("events".into(), json!(self.events));
        sections.insert("lost".into(), json!(self.lost));
    }
}

/// A line of stderr without its time and module: `2026-01-01T00:00:00Z  WARN kv: …`.
fn plain(line: &str) -> &str {
    let mut words = line.splitn(2, char::is_whitespace);
    match (words.next(), words.next()) {
        (Some(time), Some(rest)) if time.ends_with('Z') && time.contains('T') => rest.trim_start(),
        _ => line.trim_start(),
    }
}

/// 14220 as "14,220".
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// "1 message", "2 messages".
#[must_use]
pub fn several(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut desk = Desk::default();
        for number in 0..10_000 {
            desk.say("x");
            desk.line("hello", false, &"y".repeat(number));
            desk.tick(Instant::now() + Duration::from_secs(number as u64));
        }
        assert_eq!((desk.events.len(), desk.rate.len()), (EVENTS, SECONDS));
        let lines = &desk.view("hello").lines;
        assert!(lines.len() == LINES && lines.iter().all(|(_, line)| line.len() <= LONGEST));
    }
}
