//! Buttons without a browser, and the events that the page gets.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::{Ended, Signal};

use crate::process::{Backend, PATIENCE};

impl Backend {
    /// Lets it look at a server.
    pub fn look_at(server: &str) -> Result<Self> {
        Self::spawn(server, 18_300)
    }

    /// Presses a button as the page does, and returns the answer's status and body.
    pub fn press(&self, path: &str) -> Result<(u16, String)> {
        self.request("POST", &format!("/do/{path}"), &[("x-token", &self.token)])
    }

    /// Presses a button, which has to do what it says.
    pub fn press_well(&self, path: &str) -> Result<()> {
        let (status, body) = self.press(path)?;
        ensure!(status == 200, "{path}: {status} {body}");
        Ok(())
    }

    /// The events of a scene.
    pub fn events(&self, scene: &str) -> Result<Events> {
        let stream = self.send("GET", &format!("/events/{scene}"), &[])?;
        Ok(Events { lines: BufReader::new(stream), sections: BTreeMap::new() })
    }

    /// Waits until the processes whose command line contains `text` satisfy `is_so`.
    pub fn until(&self, text: &str, is_so: impl Fn(&[u32]) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let started = self.started()?;
            let with = started.iter().filter(|(_, command)| command.contains(text));
            let pids: Vec<u32> = with.map(|(pid, _)| *pid).collect();
            if is_so(&pids) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{text}: {pids:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends it SIGTERM, and waits for its end.
    pub fn stop(&mut self) -> Result<Ended> {
        self.process.signal(Signal::TERM)?;
        self.process.wait()
    }
}

/// Server-sent events of a scene: its sections as they are by now.
pub struct Events {
    lines: BufReader<TcpStream>,
    pub sections: BTreeMap<String, Value>,
}

impl Events {
    /// Reads on until the sections satisfy `is_so`.
    pub fn until(&mut self, is_so: impl Fn(&BTreeMap<String, Value>) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.sections.is_empty() || !is_so(&self.sections) {
            ensure!(Instant::now() < deadline, "not in time: {:#?}", self.sections);
            let mut line = String::new();
            ensure!(self.lines.read_line(&mut line)? > 0, "the stream has ended");
            if let Some(data) = line.strip_prefix("data: ") {
                let changed: BTreeMap<String, Value> = serde_json::from_str(data)?;
                self.sections.extend(changed);
            }
        }
        Ok(())
    }

    /// Reads on until an event is told that contains `text`, and returns it.
    pub fn told(&mut self, text: &str) -> Result<String> {
        let find = |sections: &BTreeMap<String, Value>| {
            let events = sections.get("events").and_then(Value::as_array).into_iter().flatten();
            let mut texts = events.filter_map(|event| event["text"].as_str());
            texts.find(|it| it.contains(text)).map(ToOwned::to_owned)
        };
        self.until(|sections| find(sections).is_some())?;
        find(&self.sections).context("not told")
    }

    /// A counter's value, without its commas.
    pub fn counter(&self, name: &str) -> Result<u64> {
        counter(&self.sections, name).with_context(|| format!("no counter {name:?}"))
    }
}

/// A counter's value, without its commas.
pub fn counter(sections: &BTreeMap<String, Value>, name: &str) -> Option<u64> {
    let counters = sections.get("counters")?.as_array()?;
    let found = counters.iter().find(|counter| counter[0] == name)?;
    found[1].as_str()?.replace(',', "").parse().ok()
}
