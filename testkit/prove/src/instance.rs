//! The program under test, and its running copies.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testkit::{Ended, Program, Server, Signal};

use crate::leftovers;
use crate::seen::Seen;
use crate::verdict::{Flaw, shown};

/// A program has to be ready by then.
const READY: Duration = Duration::from_secs(30);

/// A program that is told to stop has to end by then, as the contract says.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// How many bytes of its output are kept.
const KEPT: usize = 16 << 20;

/// How often what announces no event is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// The program under test: a command in any language.
#[derive(Clone, Debug)]
pub struct Candidate {
    command: Vec<OsString>,
}

impl Candidate {
    /// Takes a program and its arguments.
    ///
    /// # Errors
    ///
    /// If there is no word.
    pub fn new(command: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Self> {
        let command: Vec<OsString> = command.into_iter().map(Into::into).collect();
        if command.is_empty() {
            bail!("no command to run");
        }
        Ok(Self { command })
    }

    /// Fails if there is no such program.
    ///
    /// # Errors
    ///
    /// If its path leads nowhere, or no folder of the `PATH` has a program of its name.
    pub fn found(&self) -> Result<()> {
        let program = Path::new(&self.command[0]);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_there = if program.components().count() > 1 {
            program.is_file()
        } else {
            std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
        };
        ensure!(is_there, "there is no program {}", program.display());
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = testkit::isolated(&self.command[0]);
        // Python buffers the lines that it writes to a pipe. They would come too late, and go with
        // a process that is killed.
        command.args(&self.command[1..]).env("PYTHONUNBUFFERED", "1");
        // The last line of a panic says what happened.
        command.env("RUST_BACKTRACE", "0");
        command
    }
}

/// How a copy of the candidate is started.
#[must_use]
pub struct Launch<'a> {
    server: &'a Server,
    command: Command,
    on_line: Box<dyn Fn(&str) + Send>,
    mark: String,
    kept: PathBuf,
}

impl<'a> Launch<'a> {
    pub(crate) fn new(
        candidate: &Candidate,
        server: &'a Server,
        mark: String,
        kept: PathBuf,
    ) -> Self {
        let mut command = candidate.command();
        command.env("NATS_URL", server.url()).env("MQTT_URL", server.mqtt_url());
        leftovers::mark(&mut command, &mark);
        Self { server, command, on_line: Box::new(|_| ()), mark, kept }
    }

    /// Adds flags, as they are typed.
    pub fn args(mut self, args: &str) -> Self {
        self.command.args(args.split_whitespace());
        self
    }

    /// Connects it to another NATS URL than the server's own.
    pub fn url(mut self, url: &str) -> Self {
        self.command.env("NATS_URL", url);
        self
    }

    /// Adds one argument as it is.
    pub fn arg(mut self, arg: &str) -> Self {
        self.command.arg(arg);
        self
    }

    /// Notes which ids it names.
    pub fn watched(self, seen: &Seen) -> Self {
        let seen = seen.clone();
        self.on_line(move |line| seen.note(line))
    }

    /// Calls `on_line` with each line of its stdout as it comes, on another thread.
    pub fn on_line(mut self, on_line: impl Fn(&str) + Send + 'static) -> Self {
        self.on_line = Box::new(on_line);
        self
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// A [`Flaw`] if it cannot be started.
    pub fn start(mut self) -> Result<Instance> {
        let program = Program::spawn_watched(&mut self.command, self.on_line);
        let program = program.map_err(|error| Flaw::new(format!("{error:#}")))?;
        Ok(Instance {
            program: program.timeout(GRACE + Duration::from_secs(3)).keep(KEPT),
            connection: None,
            mark: self.mark,
            kept: self.kept,
            events: Events { since: Instant::now(), text: String::new() },
        })
    }

    /// Starts it, and waits until it has subscribed to `subject`.
    ///
    /// # Errors
    ///
    /// A [`Flaw`] if it cannot be started, ends before it has subscribed, or has not subscribed in
    /// time.
    pub fn ready(self, subject: &str) -> Result<Instance> {
        let server = self.server;
        let before = subscribers(server, subject)?;
        let mut instance = self.start()?;
        instance.connection =
            Some(instance.wait(READY, &format!("it subscribed to {subject}"), || {
                Ok(subscribers(server, subject)?.difference(&before).next().copied())
            })?);
        instance.events.add("ready");
        Ok(instance)
    }
}

/// The ids of the connections that have a subscription which `subject` matches.
pub(crate) fn subscribers(server: &Server, subject: &str) -> Result<BTreeSet<u64>> {
    let subsz = server.monitor(&format!("/subsz?subs=1&limit=100000&test={subject}"))?;
    let list = subsz["subscriptions_list"].as_array();
    Ok(list.into_iter().flatten().filter_map(|sub| sub["cid"].as_u64()).collect())
}

/// What happened to a copy, for the file that keeps its output.
struct Events {
    since: Instant,
    text: String,
}

impl Events {
    fn add(&mut self, event: &str) {
        let _ = writeln!(self.text, "{:>9.3} s  {event}", self.since.elapsed().as_secs_f64());
    }
}

/// A running copy of the candidate. When it is dropped, every process of it is killed, and its
/// output is written to the check's folder.
pub struct Instance {
    program: Program,
    /// The id of its connection.
    connection: Option<u64>,
    mark: String,
    kept: PathBuf,
    events: Events,
}

impl Instance {
    /// Waits until `look` finds something.
    ///
    /// # Errors
    ///
    /// A [`Flaw`] if the program ends before, or the time is up.
    pub fn wait<T>(
        &mut self,
        limit: Duration,
        event: &str,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let begun = Instant::now();
        loop {
            let is_running = self.program.is_running()?;
            if let Some(found) = look()? {
                return Ok(found);
            }
            if !is_running {
                let ended = self.program.wait()?;
                bail!(Flaw::new(format!("it ended before {event}")).saw(format!(
                    "It {} after {}.{}",
                    how(&ended),
                    shown(begun.elapsed()),
                    last_words(&ended.stderr)
                )));
            }
            if begun.elapsed() > limit {
                bail!(
                    Flaw::new(format!("{} went by before {event}", shown(limit)))
                        .saw(format!("It runs.{}", last_words(&self.program.stderr())))
                );
            }
            thread::sleep(LOOK);
        }
    }

    /// How many messages nats-server has handed to its connection.
    ///
    /// # Errors
    ///
    /// If its connection is not known, or nats-server does not tell.
    pub fn given(&self, server: &Server) -> Result<u64> {
        let id = self.connection.context("a copy whose connection is not known")?;
        let connz = server.monitor(&format!("/connz?cid={id}"))?;
        connz["connections"][0]["out_msgs"].as_u64().context("nats-server does not tell")
    }

    /// How many messages nats-server had handed to its connection when that was closed.
    ///
    /// # Errors
    ///
    /// As [`given`](Self::given).
    pub fn given_in_all(&self, server: &Server) -> Result<u64> {
        let id = self.connection.context("a copy whose connection is not known")?;
        let connz = server.monitor(&format!("/connz?state=closed&cid={id}"))?;
        connz["connections"][0]["out_msgs"].as_u64().context("nats-server does not tell")
    }

    /// Waits until nats-server has written everything to its connection.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_until_given(&mut self, server: &Server, count: u64) -> Result<()> {
        let id = self.connection.context("a copy whose connection is not known")?;
        let path = format!("/connz?cid={id}");
        self.wait(READY, &format!("nats-server had handed it {count} messages"), || {
            let connz = server.monitor(&path)?;
            let it = &connz["connections"][0];
            let is_all = it["out_msgs"].as_u64() >= Some(count) && it["pending_bytes"] == 0;
            Ok(is_all.then_some(()))
        })
    }

    /// Sends a signal to it and to every process that it has started.
    pub fn signal(&mut self, signal: Signal) {
        self.events.add(&format!("gets {signal:?}"));
        self.program.signal_all(signal);
    }

    /// Kills it, with every process that it has started.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        leftovers::kill(&self.mark);
    }

    /// How long ago it was started.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.events.since.elapsed()
    }

    /// Whether it runs.
    ///
    /// # Errors
    ///
    /// If the system does not tell.
    pub fn is_running(&mut self) -> Result<bool> {
        self.program.is_running()
    }

    /// How it has ended, if it has: `exited with code 1`, with its last words.
    ///
    /// # Errors
    ///
    /// If the system does not tell.
    pub fn end(&mut self) -> Result<Option<String>> {
        if self.is_running()? {
            return Ok(None);
        }
        let ended = self.program.wait()?;
        Ok(Some(format!("It {}.{}", how(&ended), last_words(&ended.stderr))))
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    ///
    /// A [`Flaw`] if it does not in time.
    pub fn ends_by_itself(&mut self, limit: Duration) -> Result<End> {
        let begun = Instant::now();
        while self.program.is_running()? {
            if begun.elapsed() > limit {
                bail!(
                    Flaw::new(format!("it runs on for more than {}", shown(limit)))
                        .saw(format!("It runs.{}", last_words(&self.program.stderr())))
                );
            }
            thread::sleep(LOOK);
        }
        let ended = self.program.wait()?;
        let text = format!("It {}.{}", how(&ended), last_words(&ended.stderr));
        Ok(End { code: ended.code(), text })
    }

    /// The lines of its stdout so far.
    #[must_use]
    pub fn stdout(&self) -> Vec<String> {
        self.program.stdout()
    }

    /// The lines of its stderr so far.
    #[must_use]
    pub fn stderr(&self) -> Vec<String> {
        self.program.stderr()
    }

    /// Waits for the end of a program that was told to stop, and returns how long that took.
    ///
    /// # Errors
    ///
    /// A [`Flaw`] if it does not end in time, exits with another code than 0, or leaves a process
    /// behind. `told` is what was done, and when.
    pub fn ends_well(&mut self, told: (&str, Instant)) -> Result<Duration> {
        let (what, when) = told;
        let Ok(ended) = self.program.wait() else {
            bail!(
                Flaw::new(format!("it runs on after {what}"))
                    .did(format!("It got {what}."))
                    .saw(format!("It has 5 s for that. {} later it had not ended.", shown(when.elapsed())))
                    .likely("It does not handle the signal, or it waits for something that does not come, or that never ends.")
            );
        };
        let took = ended.at.saturating_duration_since(when);
        self.events.add(&how(&ended));
        if took > GRACE {
            bail!(
                Flaw::new(format!("it takes {} to end", shown(took)))
                    .did(format!("It got {what}."))
                    .saw(format!("It {} {} later.", how(&ended), shown(took)))
                    .likely("What it waits for at its end has no time-out; it has 5 s.")
            );
        }
        if ended.code() != Some(0) {
            let (figure, likely) = match ended.code() {
                Some(_) => (
                    format!("it {} after {what}", how(&ended)),
                    "An error at the end ends it. Exit code 0 tells a service manager that nothing was left undone.",
                ),
                None => (
                    "the signal itself ends it".to_owned(),
                    "A program that does not handle the signal is ended by it: with whatever it holds.",
                ),
            };
            bail!(
                Flaw::new(figure)
                    .did(format!("It got {what}."))
                    .saw(format!(
                        "It {} {} later.{}",
                        how(&ended),
                        shown(took),
                        last_words(&ended.stderr)
                    ))
                    .likely(likely)
            );
        }
        let left = leftovers::marked(&self.mark).len();
        if left > 0 {
            leftovers::kill(&self.mark);
            bail!(
                Flaw::new(format!("it leaves {left} processes behind"))
                    .did(format!("It got {what}."))
                    .saw(format!(
                        "It {} {} later, and {left} processes that it had started ran on.",
                        how(&ended),
                        shown(took)
                    ))
                    .likely(
                        "The program starts processes, and does not end them or wait for them."
                    )
            );
        }
        Ok(took)
    }
}

/// How a copy has ended.
pub struct End {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// `It exited with code 1.`, and its last words.
    pub text: String,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
        let _ = self.program.wait();
        let mut text = std::mem::take(&mut self.events.text);
        for (name, lines) in [("stdout", self.program.stdout()), ("stderr", self.program.stderr())]
        {
            let _ = writeln!(text, "--- {name}, {} lines ---", lines.len());
            for line in lines {
                let _ = writeln!(text, "{line}");
            }
        }
        // The verdict does not depend on it.
        let _ = fs::write(&self.kept, text);
    }
}

/// `exited with code 1`, `was ended by SIGTERM`.
fn how(ended: &Ended) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (ended.code(), ended.status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(2)) => "was ended by SIGINT".into(),
        (None, Some(9)) => "was ended by SIGKILL".into(),
        (None, Some(15)) => "was ended by SIGTERM".into(),
        (None, signal) => format!("was ended by signal {}", signal.unwrap_or_default()),
    }
}

/// The last lines of stderr, for a sentence.
fn last_words(stderr: &[String]) -> String {
    let last = &stderr[stderr.len().saturating_sub(3)..];
    if last.is_empty() {
        return " It printed nothing on stderr.".into();
    }
    let cut = |line: &String| {
        let line: String = line.chars().filter(|c| !c.is_control()).take(300).collect();
        format!("`{line}`")
    };
    format!(" Its last words on stderr: {}.", last.iter().map(cut).collect::<Vec<_>>().join(", "))
}
