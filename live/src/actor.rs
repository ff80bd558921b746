//! A program of a scene: a process, and a line of its own to nats-server.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testkit::{Link, Program, Signal, Way, isolated};

use crate::board::Board;
use crate::cast::{Life, Role};
use crate::scenes::{Cause, End};
use crate::wire::{Protocol, Reader};

/// What a slow line adds, each way.
const SLOW: Duration = Duration::from_millis(300);
/// Output that is kept for an error message. The page has the last lines.
const KEPT: usize = 16 * 1024;

/// A program, running or not.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a button of the page")]
pub struct Actor {
    /// What it is.
    pub role: &'static Role,
    board: Arc<Board>,
    link: Link,
    /// The last connection of a process that has ended.
    left: Arc<AtomicU64>,
    program: Option<Program>,
    /// Whether its process is the first version.
    runs_first: bool,
    /// Whether the next start is one of the first version.
    pub first: bool,
    /// Milliseconds from one start to the next, in place of those of its role.
    pub period: Option<u64>,
    /// Whether it is to be started again: at once, or when its period is over.
    again: bool,
    wanted: bool,
    cut: bool,
    slow: bool,
    cause: Cause,
    started: Instant,
    runs: u64,
}

impl Actor {
    /// An actor that is not started, with a line to `port`.
    ///
    /// # Errors
    ///
    /// If no port is free for its line.
    pub fn new(role: &'static Role, board: &Arc<Board>, port: u16) -> Result<Self> {
        let (scene, readers) = (Arc::clone(board), Mutex::default());
        let left = Arc::new(AtomicU64::new(0));
        let last = Arc::clone(&left);
        let link = Link::tapped(port, move |connection, way, bytes| {
            // nats-server may go on sending to a process that has ended behind a cut line.
            let bytes = if connection > last.load(Ordering::Relaxed) { bytes } else { &[] };
            tap(&scene, role, &readers, (connection, way), bytes);
        })?;
        let actor = Self {
            role,
            board: Arc::clone(board),
            link,
            left,
            program: None,
            runs_first: false,
            first: false,
            period: None,
            again: false,
            wanted: false,
            cut: false,
            slow: false,
            cause: Cause::Itself,
            started: Instant::now(),
            runs: 0,
        };
        actor.set_delay();
        actor.show("not started");
        Ok(actor)
    }

    fn set_delay(&self) {
        let slow = if self.slow { SLOW } else { Duration::ZERO };
        self.link.delay(Duration::from_millis(self.role.delay) + slow);
    }

    /// Tells the page how it is.
    fn show(&self, state: &str) {
        let (runs, pid) = (self.is_running(), self.pid());
        let (first, cut, slow) = (self.first, self.cut, self.slow);
        self.board.with(self.role.scene, |scene| {
            let view = scene.desk.view(self.role.id);
            (view.runs, view.pid, view.first) = (runs, pid, first);
            (view.cut, view.slow) = (cut, slow);
            if !state.is_empty() {
                state.clone_into(&mut view.state);
            }
        });
    }

    /// Whether its process runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.program.is_some()
    }

    /// The id of its process, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.program.as_ref().map(Program::id)
    }

    /// How often it was started.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// Whether a line of its stdout since its start contains `text`. Only the first lines are kept.
    #[must_use]
    pub fn has_printed(&self, text: &str) -> bool {
        let stdout = self.program.as_ref().map(Program::stdout).unwrap_or_default();
        stdout.iter().any(|line| line.contains(text))
    }

    /// Removes the lines of earlier processes, if none runs.
    pub fn clear_lines(&self) {
        if !self.is_running() {
            self.board.with(self.role.scene, |scene| scene.desk.clear_lines(self.role.id));
        }
    }

    /// Starts it, with further arguments.
    ///
    /// # Errors
    ///
    /// If it runs already, or there is no such program.
    pub fn start(
        &mut self,
        programs: &HashMap<String, PathBuf>,
        fill: &dyn Fn(&str) -> String,
        more: &[&str],
    ) -> Result<()> {
        ensure!(!self.is_running(), "{} runs already", self.role.id);
        let run = self.role.first.as_ref().filter(|_| self.first).unwrap_or(&self.role.service);
        let path = programs.get(run.program);
        let path = path.with_context(|| format!("{} was not built", run.program))?;
        let mut command: Command = isolated(path);
        let port = self.link.port();
        match self.role.protocol {
            Protocol::Nats => command.env("NATS_URL", format!("nats://127.0.0.1:{port}")),
            Protocol::Mqtt => command.env("MQTT_URL", format!("mqtt://127.0.0.1:{port}")),
        };
        command.args(run.args.iter().chain(more).map(|arg| fill(arg)));
        let (role, board) = (self.role, Arc::clone(&self.board));
        // Before its first message comes.
        board.with(role.scene, |scene| scene.play.started(&mut scene.desk, role.id));
        self.program = Some(
            Program::spawn_followed(&mut command, move |is_stderr, line| {
                board.with(role.scene, |scene| {
                    scene.desk.line(role.id, is_stderr, line);
                    scene.play.line(&mut scene.desk, role.id, is_stderr, line);
                });
            })?
            .keep(KEPT),
        );
        self.runs_first = self.first;
        (self.cause, self.again, self.wanted) = (Cause::Itself, false, true);
        (self.started, self.runs) = (Instant::now(), self.runs + 1);
        self.show(&self.running());
        Ok(())
    }

    fn running(&self) -> String {
        match self.role.life {
            Life::Again(_) if self.runs > 1 => {
                format!("runs, started {} times", self.runs)
            }
            _ => "runs".into(),
        }
    }

    /// Ends it: it is not started again by itself.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn end(&mut self, cause: Cause) -> Result<()> {
        let was_wanted = std::mem::take(&mut self.wanted);
        let Some(program) = &mut self.program else {
            // Between two runs.
            ensure!(was_wanted, "{} does not run", self.role.id);
            self.show(if cause == Cause::Killed { "was killed" } else { "was stopped" });
            return Ok(());
        };
        // It may have ended by itself a moment ago, which is noticed soon.
        if program.is_running()? {
            self.cause = cause;
            program.signal(if cause == Cause::Killed { Signal::KILL } else { Signal::TERM })?;
        }
        Ok(())
    }

    /// Stops it, and starts it again when it has ended.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn restart(&mut self) -> Result<()> {
        self.end(Cause::Stopped)?;
        (self.again, self.wanted) = (self.is_running(), true);
        Ok(())
    }

    /// Makes it the other version: at once if it runs and is no tool, or with its next start.
    ///
    /// # Errors
    ///
    /// If it has one version only.
    pub fn toggle(&mut self) -> Result<()> {
        ensure!(self.role.first.is_some(), "{} has one version only", self.role.id);
        self.first = !self.first;
        // A tool was started with arguments of the other version.
        if self.is_running() && self.role.life != Life::Tool {
            let version = if self.first { "the first version" } else { "the service" };
            let text = format!("{version} takes the place of {}", self.role.id);
            self.board.with(self.role.scene, |scene| scene.desk.say(&text));
            self.restart()?;
        }
        self.show("");
        Ok(())
    }

    /// Breaks or mends its line.
    ///
    /// # Errors
    ///
    /// If there is no such fault.
    pub fn line(&mut self, fault: &str) -> Result<()> {
        match fault {
            "cut" => {
                self.cut = !self.cut;
                if self.cut { self.link.cut() } else { self.link.heal() }
            }
            "slow" => {
                self.slow = !self.slow;
                self.set_delay();
            }
            _ => bail!("a line cannot be {fault:?}"),
        }
        self.show("");
        Ok(())
    }

    /// Notices that it has ended. Returns true if it is to be started again by now.
    pub fn look(&mut self) -> bool {
        if let Some(program) = &mut self.program {
            if program.is_running().unwrap_or(false) {
                return false;
            }
            // Until nats-server learns of the end, it sends messages that are lost, and counted.
            if !self.cut && self.link.connections() > 0 {
                return false;
            }
            self.left.store(self.link.accepted(), Ordering::Relaxed);
            let ended = program.wait();
            self.program = None;
            self.wanted &= matches!(self.role.life, Life::Again(_));
            let status = ended.as_ref().map_or_else(ToString::to_string, |it| words(it.status));
            let success = ended.is_ok_and(|ended| ended.success());
            let end = End { first: self.runs_first, cause: self.cause, status, success };
            let goes_on = success && self.wanted && matches!(self.role.life, Life::Again(_));
            let state = match end.cause {
                Cause::Itself if goes_on => self.running(),
                Cause::Killed => "was killed (kill -9)".into(),
                Cause::Stopped => format!("was stopped (SIGTERM), {}", end.status),
                Cause::Itself => format!("has ended, {}", end.status),
            };
            self.show(&state);
            self.board.with(self.role.scene, |scene| {
                scene.play.ended(&mut scene.desk, self.role.id, &end);
            });
        }
        match self.role.life {
            _ if self.again => {
                self.clear_lines();
                true
            }
            Life::Again(period) => {
                let period = Duration::from_millis(self.period.unwrap_or(period));
                self.wanted && self.started.elapsed() >= period
            }
            _ => false,
        }
    }
}

/// How a process ended, in words.
fn words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(9)) => "SIGKILL".into(),
        (None, Some(6)) => "SIGABRT".into(),
        (None, Some(15)) => "SIGTERM".into(),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}

/// The readers of a line's connections: one for each way.
type Readers = Mutex<HashMap<(u64, Way), Reader>>;

/// Finds the messages in what passes on a line, and tells the scene.
fn tap(board: &Board, role: &'static Role, readers: &Readers, from: (u64, Way), bytes: &[u8]) {
    let mut readers = readers.lock().unwrap_or_else(PoisonError::into_inner);
    if bytes.is_empty() {
        readers.remove(&from);
        return;
    }
    let reader = readers.entry(from).or_insert_with(|| Reader::new(role.protocol, from.1));
    let messages = reader.feed(bytes);
    if !messages.is_empty() {
        board.with(role.scene, |scene| {
            for message in &messages {
                scene.play.message(&mut scene.desk, role.id, message);
            }
        });
    }
}
