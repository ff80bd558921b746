//! What the tests of this experiment share: workers, publishers, and which messages were handled.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::{Ended, Program, Server};

pub const PUBLISHER: &str = env!("CARGO_BIN_EXE_log-publisher");
pub const WORKER: &str = env!("CARGO_BIN_EXE_log-worker");
pub const SUBJECT: &str = "logs.process";

/// Which log entries were handled, by all workers together.
#[derive(Clone, Default)]
pub struct Handled(Arc<(Mutex<Entries>, Condvar)>);

#[derive(Default)]
struct Entries {
    count: u64,
    times: BTreeMap<u64, u32>,
}

impl Handled {
    fn with<T>(&self, look: impl FnOnce(&mut Entries) -> T) -> T {
        look(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a line of a worker.
    pub fn note(&self, line: &str) {
        if let Some(id) = id_of(line) {
            self.with(|entries| {
                entries.count += 1;
                *entries.times.entry(id).or_default() += 1;
            });
            self.0.1.notify_all();
        }
    }

    /// Waits until `is_so`, as long as entries are handled.
    fn until(&self, what: &str, is_so: impl Fn(&Entries) -> bool) -> Result<()> {
        let patience = Duration::from_secs(20);
        let (entries, changed) = &*self.0;
        let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
        while !is_so(&entries) {
            let before = entries.count;
            (entries, _) = changed
                .wait_timeout_while(entries, patience, |entries| entries.count == before)
                .unwrap_or_else(PoisonError::into_inner);
            ensure!(entries.count > before, "{before} were handled, then none: no {what}");
        }
        Ok(())
    }

    /// Waits until `count` entries were handled.
    pub fn wait(&self, count: u64) -> Result<()> {
        self.until(&format!("{count} entries"), |entries| entries.count >= count)
    }

    /// Waits until each of the ids was handled.
    pub fn wait_for(&self, mut ids: impl Iterator<Item = u64>) -> Result<()> {
        ids.try_for_each(|id| {
            self.until(&format!("log {id}"), |entries| entries.times.contains_key(&id))
        })
    }

    /// How many of the ids nobody has handled.
    pub fn missing(&self, ids: impl Iterator<Item = u64>) -> u64 {
        self.with(|entries| {
            let missing = ids.filter(|id| !entries.times.contains_key(id));
            missing.map(|_| 1).sum()
        })
    }

    /// Fails unless each of the ids was handled `times` times.
    pub fn check(&self, ids: impl Iterator<Item = u64>, times: u32) {
        self.with(|entries| {
            for id in ids {
                let handled = entries.times.get(&id).copied().unwrap_or(0);
                assert_eq!(handled, times, "log {id}");
            }
        });
    }
}

/// The id in a line such as `ann: log 7 INFO "order placed"`.
pub fn id_of(line: &str) -> Option<u64> {
    let (_, log) = line.split_once(": log ")?;
    log.split(' ').next()?.parse().ok()
}

/// Starts a worker, and waits until it says that it is ready.
pub fn start_worker(command: &mut Command, handled: &Handled) -> Result<Program> {
    let handled = handled.clone();
    let mut worker = Program::spawn_watched(command, move |line| handled.note(line))?;
    worker.expect(": waiting for")?;
    Ok(worker)
}

/// Runs `log-publisher` to its end: nats-server has all messages then.
pub fn publish(server: &Server, count: u64) -> Result<()> {
    let mut command = server.command(PUBLISHER);
    let ended = Program::spawn(command.args(["--count", &count.to_string()]))?.wait()?;
    ensure!(count_of(&ended)? == count, "{:?}", ended.stdout);
    Ok(())
}

/// The count in the last line, `[NAME: ]COUNT messages in …`, of a program that ended well.
pub fn count_of(ended: &Ended) -> Result<u64> {
    ensure!(ended.success(), "{:?}: {:?}", ended.status, ended.stderr);
    let last = ended.stdout.last().context("nothing was printed")?;
    let (before, _) = last.split_once(" messages in ").context("no summary")?;
    let count = before.split(' ').next_back().unwrap_or_default();
    Ok(count.parse()?)
}

/// Publishes payloads of any kind; returns when nats-server has them.
pub fn server_takes(server: &Server, payloads: &[&[u8]]) -> Result<()> {
    let mut bytes = b"CONNECT {\"verbose\":false}\r\n".to_vec();
    for payload in payloads {
        write!(bytes, "PUB {SUBJECT} {}\r\n", payload.len())?;
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
    }
    let mut stream = TcpStream::connect(("127.0.0.1", server.port()))?;
    stream.write_all(&bytes)?;
    confirmed(&stream)
}

/// Waits until nats-server has everything that was written.
pub fn confirmed(mut stream: &TcpStream) -> Result<()> {
    stream.write_all(b"PING\r\n")?;
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    ensure!(lines.any(|line| line == "PONG"), "nats-server hung up");
    Ok(())
}
