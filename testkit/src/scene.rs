//! Plays the terminals of one heading of a README.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::action::{Action, Run, is_key};
use crate::program::{Program, Signal, TIMEOUT};
use crate::server::Server;
use crate::topology::Topology;

/// A program that has printed nothing for so long prints nothing more by itself.
const SILENCE: Duration = Duration::from_secs(30);
/// The signal with which a program aborts.
const SIGABRT: i32 = 6;
/// A program that has not subscribed for so long does not subscribe.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The terminals under one heading. They share a server.
#[derive(Debug)]
pub struct Scene {
    /// The heading above them: "Run it", or one below it.
    pub heading: String,
    /// The main heading above that: "Run it" or "Break it".
    pub section: String,
    /// The terminals, in the order in which they are opened.
    pub terminals: Vec<Terminal>,
}

/// One `console` block.
#[derive(Debug)]
pub struct Terminal {
    /// What happens in it, in order.
    pub steps: Vec<Step>,
    /// Where its text lies in the README.
    pub(crate) range: std::ops::Range<usize>,
}

/// A command and what it prints.
#[derive(Debug)]
pub struct Step {
    /// As typed, without the prompt.
    pub command: String,
    /// The lines expected before the marker, wildcards included.
    before: String,
    end: End,
    /// The lines expected after the marker.
    after: String,
}

/// How a program ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// By itself, before anything else is started.
    ByItself,
    /// By itself, while other blocks go on.
    Later,
    /// By Ctrl-C, after the programs that end by themselves.
    Interrupted,
    /// By SIGTERM: it is suspended by Ctrl-Z, and resumed when the last block has been played.
    Suspended,
    /// By a `pkill -KILL` of another block.
    Killed,
    /// By a crash of its own (SIGABRT), before anything else is started.
    Aborted,
}

impl End {
    const ALL: [Self; 5] =
        [Self::Later, Self::Interrupted, Self::Suspended, Self::Killed, Self::Aborted];

    /// The lines that stand for it in a block.
    fn marker(self) -> &'static str {
        match self {
            Self::ByItself => "",
            Self::Later => "$\n",
            Self::Interrupted => "^C\n",
            Self::Suspended => "^Z\n$ kill %1\n",
            Self::Killed => "Killed\n",
            Self::Aborted => "Aborted\n",
        }
    }
}

/// What a program printed before and after the marker of its step.
#[derive(Debug, Default)]
pub struct Printed {
    before: String,
    after: String,
}

/// The server against which a scene is played.
#[derive(Debug)]
pub enum Host<'a> {
    /// One of the scene's own. The scene may kill it and start it again.
    Own(&'a mut Server),
    /// Several of the scene's own. The scene presses the keys that break them.
    Several(&'a mut dyn Topology),
    /// One that runs already: this URL, or what the programs connect to by default.
    Running(Option<&'a str>),
}

impl Host<'_> {
    fn command(&self, program: PathBuf) -> Command {
        match self {
            Self::Own(server) => {
                let mut command = server.command(program);
                // A program's files are gone with the scene.
                command.current_dir(server.folder());
                command
            }
            Self::Several(servers) => {
                let first = &servers.servers()[0];
                let mut command = first.command(program);
                command.env("NATS_URL", servers.url()).current_dir(first.folder());
                command
            }
            Self::Running(url) => {
                let mut command = Command::new(program);
                command.envs(url.map(|url| ("NATS_URL", url)));
                command
            }
        }
    }

    /// The value with the ports of this server in place of the usual ones, and with the text of a
    /// file in place of `$(cat FILE)`.
    fn here(&self, value: &str) -> Result<String> {
        let server = match self {
            Self::Own(server) => server,
            Self::Several(servers) => {
                let ports = servers.usual_ports().iter().zip(servers.servers());
                let ports = ports.flat_map(|(usual, server)| {
                    [(usual.nats, server.port()), (usual.mqtt, server.mqtt_port())]
                });
                return Ok(with_ports(value, &ports.collect::<Vec<_>>()));
            }
            Self::Running(_) => return Ok(value.to_owned()),
        };
        if let Some(file) = value.strip_prefix("$(cat ").and_then(|rest| rest.strip_suffix(')')) {
            return fs::read_to_string(server.folder().join(file)).context(file.to_owned());
        }
        Ok(with_ports(value, &[(4222, server.port()), (8883, server.mqtt_port())]))
    }

    /// The servers of the scene's own.
    fn servers(&self) -> &[Server] {
        match self {
            Self::Own(server) => std::slice::from_ref(server),
            Self::Several(servers) => servers.servers(),
            Self::Running(_) => &[],
        }
    }

    fn own(&mut self) -> Result<&mut Server> {
        match self {
            Self::Own(server) => Ok(server),
            Self::Several(_) | Self::Running(_) => bail!("needs a server of the scene's own"),
        }
    }
}

impl Scene {
    /// The first command of its first terminal.
    #[must_use]
    pub fn first_command(&self) -> &str {
        let first = self.terminals.first().and_then(|terminal| terminal.steps.first());
        first.map_or("", |step| &step.command)
    }

    /// Plays the scene, and returns what each step of each terminal printed. `path` returns the
    /// path of a program whose name is that of [`Run::program`]. `on_line` is called with every
    /// line of every terminal as it comes, commands included, and with the number of the terminal
    /// from 0.
    ///
    /// # Errors
    ///
    /// If a program prints nothing in time, does not end, or ends badly.
    pub fn play(
        &self,
        host: Host,
        path: impl Fn(&str) -> PathBuf,
        on_line: impl Fn(usize, &str) + Clone + Send + 'static,
    ) -> Result<Vec<Vec<Printed>>> {
        let mut stage = Stage { host, running: Vec::new(), exported: HashMap::new() };
        let mut printed: Vec<Vec<Printed>> = Vec::new();
        for (terminal, Terminal { steps, .. }) in self.terminals.iter().enumerate() {
            printed.push(Vec::new());
            for step in steps {
                on_line(terminal, &step.shown());
                let at = (terminal, printed[terminal].len());
                let on_line = on_line.clone();
                let done = stage
                    .perform(step, at, &path, move |line| on_line(terminal, line))
                    .with_context(|| format!("`{}`", step.command))?;
                printed[terminal].push(done);
            }
        }
        // A program that ends by itself may wait for a reply that a suspended one owes, and may need
        // the rest until its end.
        stage.running.sort_by_key(|running| match running.end {
            End::Suspended => 0,
            End::Later => 1,
            _ => 2,
        });
        for running in stage.running {
            let (terminal, number) = running.at;
            let step = &self.terminals[terminal].steps[number];
            printed[terminal][number] =
                running.finish(step).with_context(|| format!("`{}`", step.command))?;
        }
        Ok(printed)
    }
}

/// A scene while it is played.
struct Stage<'a> {
    host: Host<'a>,
    running: Vec<Running>,
    /// The environment of each terminal.
    exported: HashMap<usize, Vec<(String, String)>>,
}

/// A program that runs on after its step.
struct Running {
    name: String,
    is_example: bool,
    /// `2>&1`: its exit code is not checked either.
    with_stderr: bool,
    process: Program,
    /// The numbers of its terminal and its step.
    at: (usize, usize),
    end: End,
    killed: bool,
}

impl Stage<'_> {
    fn perform(
        &mut self,
        step: &Step,
        at: (usize, usize),
        path: impl Fn(&str) -> PathBuf,
        on_line: impl Fn(&str) + Send + 'static,
    ) -> Result<Printed> {
        match Action::parse(&step.command)? {
            Action::Kill(name) => self.kill(&name)?,
            Action::Send(bytes) => send(self.host.own()?, &bytes)?,
            Action::Reload => self.host.own()?.reload()?,
            Action::Edit { script, path } => {
                let file = self.host.own()?.folder().join(path);
                let edited = Command::new("sed").args(["-i.bak", &script]).arg(file).status();
                ensure!(edited.context("cannot run sed")?.success(), "sed failed");
            }
            Action::Up { fresh } => {
                if let Host::Own(server) = &mut self.host
                    && !server.is_running()
                {
                    if fresh {
                        server.remove_store()?;
                    }
                    server.restart()?;
                }
                // What `up` prints depends on the machine.
                return Ok(step.as_expected());
            }
            Action::Press(keys) => {
                let Host::Several(servers) = &mut self.host else {
                    bail!("needs several servers of the scene's own");
                };
                let done = servers.press(&keys)?;
                on_line(&done);
                return Ok(Printed { before: done + "\n", after: String::new() });
            }
            Action::Export(variables) => {
                let exported = self.exported.entry(at.0).or_default();
                for (name, value) in variables {
                    exported.push((name, self.host.here(&value)?));
                }
            }
            Action::Run(run) => return self.run(step, at, &run, path, on_line),
        }
        Ok(Printed::default())
    }

    fn run(
        &mut self,
        step: &Step,
        at: (usize, usize),
        run: &Run,
        path: impl Fn(&str) -> PathBuf,
        on_line: impl Fn(&str) + Send + 'static,
    ) -> Result<Printed> {
        let mut command = self.host.command(path(&run.program));
        command.envs(
            self.exported.get(&at.0).into_iter().flatten().map(|(name, value)| (name, value)),
        );
        command.args(&run.args).envs(run.env.iter().map(|(name, value)| (name, value)));
        if run.with_stderr {
            command = with_one_pipe(&command);
        }
        let mut running = Running {
            name: run.name().to_owned(),
            is_example: run.is_example(),
            with_stderr: run.with_stderr,
            process: Program::spawn_watched(&mut command, on_line)?,
            at,
            end: step.end,
            killed: false,
        };
        match step.end {
            End::ByItself | End::Aborted => return running.finish(step),
            End::Suspended => running.wait_for(&step.before),
            End::Later | End::Interrupted | End::Killed => {
                running.process.expect("")?;
            }
        }
        self.wait_for_subscriptions();
        if step.end == End::Suspended {
            running.process.signal(Signal::STOP)?;
        }
        self.running.push(running);
        Ok(Printed::default())
    }

    /// Waits until each server has read a subscription from each of its clients: a first version
    /// prints that it waits when it has written its own. Not for long: a program need not subscribe.
    fn wait_for_subscriptions(&self) {
        let deadline = Instant::now() + SUBSCRIBE_TIMEOUT;
        for server in self.host.servers().iter().filter(|server| server.is_running()) {
            let has_subscribed = |connection: &Value| connection["subscriptions"] != 0;
            while Instant::now() < deadline
                && let Ok(connz) = server.monitor("/connz")
                && !connz["connections"].as_array().into_iter().flatten().all(has_subscribed)
            {
                thread::sleep(Duration::from_millis(2));
            }
        }
    }

    fn kill(&mut self, name: &str) -> Result<()> {
        if name == "nats-server" {
            return self.host.own()?.kill();
        }
        let mut hit = false;
        for running in &mut self.running {
            if running.name == name && !running.killed {
                running.process.kill()?;
                running.killed = true;
                hit = true;
            }
        }
        ensure!(hit, "no program of this scene that runs has that name");
        Ok(())
    }
}

impl Running {
    /// Lets the program end as `step` says.
    fn finish(mut self, step: &Step) -> Result<Printed> {
        let mut before = usize::MAX;
        match step.end {
            End::ByItself | End::Later | End::Aborted => {}
            End::Killed => ensure!(self.killed, "no pkill has hit it"),
            End::Interrupted => {
                // Not before it has printed what is expected. If that does not come, the
                // comparison fails, and shows what came instead.
                self.process.wait_for(|lines| is_match(&step.before, &text(lines)));
                before = self.process.stdout().len();
                self.process.signal(Signal::INT)?;
            }
            End::Suspended => {
                before = self.process.stdout().len();
                // As a shell's `kill` does with a job that is suspended.
                self.process.signal(Signal::TERM)?;
                self.process.signal(Signal::CONT)?;
            }
        }
        let ended = self.process.wait()?;
        let stderr = ended.stderr.join("\n");
        let told = matches!(step.end, End::Interrupted | End::Suspended);
        let by_signal = ended.status.signal().is_some();
        let aborted = step.end == End::Aborted;
        ensure!(!aborted || ended.status.signal() == Some(SIGABRT), "it did not abort: {stderr}");
        ensure!(
            ended.success()
                || self.killed
                || aborted
                || self.with_stderr && !by_signal
                || self.is_example && told && by_signal,
            "ended with {}: {stderr}",
            ended.status
        );
        let (before, after) = ended.stdout.split_at(before.min(ended.stdout.len()));
        Ok(Printed { before: text(before), after: text(after) })
    }

    /// Waits until it has printed what is expected. If that does not come, the comparison fails
    /// later, and shows what came instead.
    fn wait_for(&self, expected: &str) {
        let is_there = |lines: &[String]| is_match(expected, &text(lines));
        loop {
            let count = self.process.stdout().len();
            self.process.wait_for_within(SILENCE, |lines| lines.len() > count || is_there(lines));
            let lines = self.process.stdout();
            if is_there(&lines) || lines.len() == count {
                return;
            }
        }
    }
}

/// The same command with stdout and stderr in one pipe, so that their lines keep their order.
fn with_one_pipe(command: &Command) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", r#"exec "$0" "$@" 2>&1"#])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        shell.current_dir(folder);
    }
    shell
}

/// Sends bytes of the NATS protocol, and waits until the server has read them.
fn send(server: &Server, bytes: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port()))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(bytes)?;
    stream.write_all(b"PING\r\n")?;
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let answer = lines.into_iter().find(|line| line == "PONG" || line.starts_with("-ERR"));
    match answer.as_deref() {
        Some("PONG") => Ok(()),
        Some(error) => bail!("the server answers {error}"),
        None => bail!("the server does not answer"),
    }
}

impl Terminal {
    /// Reads the block that lies at `range` of `readme`.
    pub(crate) fn parse(readme: &str, range: std::ops::Range<usize>) -> Result<Self> {
        let mut steps: Vec<Step> = Vec::new();
        let mut rest = &readme[range.clone()];
        while !rest.is_empty() {
            let marker = End::ALL.into_iter().find(|end| rest.starts_with(end.marker()));
            let taken = match (marker, steps.last_mut()) {
                (Some(end), Some(step)) if step.end == End::ByItself => {
                    step.end = end;
                    end.marker().len()
                }
                (_, step) => {
                    let length = rest.find('\n').map_or(rest.len(), |at| at + 1);
                    let line = rest[..length].trim_end_matches('\n');
                    match (line.strip_prefix("$ "), step) {
                        (Some(command), _) => {
                            Action::parse(command)?;
                            steps.push(Step::new(command));
                        }
                        (None, Some(step)) => step.expect(line),
                        (None, None) if is_key(line) => steps.push(Step::new(line)),
                        (None, None) => {
                            bail!("a console block begins with `$ COMMAND`, not with {line:?}")
                        }
                    }
                    length
                }
            };
            rest = &rest[taken..];
        }
        let last = steps.len().saturating_sub(1);
        ensure!(
            steps[..last].iter().all(|step| matches!(step.end, End::ByItself | End::Aborted)),
            "only the last program of a terminal can run on"
        );
        Ok(Self { steps, range })
    }

    pub(crate) fn matches(&self, printed: &[Printed]) -> bool {
        self.steps.iter().zip(printed).all(|(step, printed)| step.matches(printed))
    }

    /// The block as it reads with what was printed; steps that match stay as they are.
    pub(crate) fn with(&self, printed: &[Printed]) -> String {
        let step = |(step, printed): (&Step, &Printed)| {
            let (before, after) = if step.matches(printed) {
                (&step.before, &step.after)
            } else {
                (&printed.before, &printed.after)
            };
            format!("{}\n{before}{}{after}", step.shown(), step.end.marker())
        };
        self.steps.iter().zip(printed).map(step).collect()
    }
}

impl Step {
    fn new(command: &str) -> Self {
        Self {
            command: command.to_owned(),
            before: String::new(),
            end: End::ByItself,
            after: String::new(),
        }
    }

    /// The line with which it begins.
    fn shown(&self) -> String {
        let prompt = if is_key(&self.command) { "" } else { "$ " };
        format!("{prompt}{}", self.command)
    }

    /// Adds a line to those expected.
    fn expect(&mut self, line: &str) {
        let expected = match self.end {
            End::ByItself => &mut self.before,
            _ => &mut self.after,
        };
        expected.extend([line, "\n"]);
    }

    fn matches(&self, printed: &Printed) -> bool {
        // Compared as one text: a line can come just before the program gets the signal.
        let expected = format!("{}{}", self.before, self.after);
        is_match(&expected, &format!("{}{}", printed.before, printed.after))
    }

    fn as_expected(&self) -> Printed {
        Printed { before: self.before.clone(), after: self.after.clone() }
    }
}

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Whether `printed` is what `expected` says: `[..]` stands for a part of a line, `...` for any
/// lines. The library `snapbox` compares.
#[must_use]
pub fn is_match(expected: &str, printed: &str) -> bool {
    use snapbox::{Assert, IntoData};
    Assert::new()
        .try_eq(None, printed.to_owned().into_data(), expected.to_owned().into_data())
        .is_ok()
}

/// The value with other ports: pairs of a usual one, and the one in its place.
fn with_ports(value: &str, ports: &[(u16, u16)]) -> String {
    const HOST: &str = "//localhost:";
    let mut pieces = value.split(HOST);
    let mut here = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (port, rest) =
            piece.split_at(piece.find(|c: char| !c.is_ascii_digit()).unwrap_or(piece.len()));
        let other = ports.iter().find(|(usual, _)| usual.to_string() == port);
        let port = other.map_or(port.to_owned(), |(_, other)| other.to_string());
        here.extend([HOST, &port, rest]);
    }
    here
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use crate::Cluster;

    use super::*;

    /// Programs that are shell scripts, and the blocks of a scene.
    struct Play {
        folder: TempDir,
        blocks: Vec<String>,
    }

    impl Play {
        fn new(programs: &[(&str, &str)], blocks: &[&str]) -> Result<Self> {
            let folder = tempfile::tempdir()?;
            fs::create_dir(folder.path().join("examples"))?;
            for (name, script) in programs {
                let path = folder.path().join(name);
                // Written by another process, so that no fork of this one has the file open for
                // writing when it is executed ("text file busy").
                let made = Command::new("/bin/sh")
                    .args(["-c", r#"printf '%s' "$1" > "$0"; chmod 755 "$0""#])
                    .arg(&path)
                    .arg(format!("#!/bin/sh\n{script}\n"))
                    .status()?;
                ensure!(made.success());
            }
            let blocks = blocks.iter().map(|block| (*block).to_owned()).collect();
            Ok(Self { folder, blocks })
        }

        /// Plays them, and returns the blocks as they read after that.
        fn play(&self, host: Host) -> Result<Vec<String>> {
            let terminals = self
                .blocks
                .iter()
                .map(|block| Terminal::parse(block, 0..block.len()))
                .collect::<Result<_>>()?;
            let scene = Scene { heading: "Run it".into(), section: "Run it".into(), terminals };
            let printed = scene.play(host, |name| self.folder.path().join(name), |_, _| {})?;
            let blocks = scene.terminals.iter().zip(&printed);
            Ok(blocks.map(|(terminal, printed)| terminal.with(printed)).collect())
        }

        fn is_true(&self) -> Result<()> {
            assert_eq!(self.play(Host::Running(None))?, self.blocks);
            Ok(())
        }
    }

    /// Handles signals as a service does: it says goodbye.
    const SERVICE: &str = "trap 'echo bye; exit 0' INT TERM
        echo ready
        while :; do sleep 0.01; done";
    /// Leaves signals to the system.
    const SIMPLE: &str = "echo ready; exec sleep 1000";

    #[test]
    fn ctrl_c_reaches_a_service_and_ends_an_example() -> Result<()> {
        let play = Play::new(
            &[("service", SERVICE), ("examples/first", SIMPLE)],
            &[
                "$ cargo run -p service\nready\n^C\nbye\n",
                "$ cargo run -p x --example first\nready\n^C\n",
            ],
        )?;
        play.is_true()
    }

    #[test]
    fn only_an_example_may_leave_the_signal_to_the_system() -> Result<()> {
        let block = "$ cargo run -p service\nready\n^C\n";
        let play = Play::new(&[("service", SIMPLE)], &[block])?;
        let error = play.play(Host::Running(None)).err().context("it ended well")?;
        assert!(format!("{error:#}").contains("ended with signal"), "{error:#}");
        Ok(())
    }

    #[test]
    fn a_service_that_leaves_something_undone_is_shown_with_its_stderr() -> Result<()> {
        let script = "trap 'echo 3 orders are left >&2; exit 1' INT TERM
            echo ready
            while :; do sleep 0.01; done";
        let block = "$ cargo run -p service 2>&1\nready\n^C\n3 orders are left\n";
        Play::new(&[("service", script)], &[block])?.is_true()?;
        let silent = "$ cargo run -p service\nready\n^C\n";
        let error = Play::new(&[("service", script)], &[silent])?.is_true();
        assert!(error.is_err());
        Ok(())
    }

    #[test]
    fn stdout_and_stderr_keep_their_order() -> Result<()> {
        let block = "$ cargo run -p both 2>&1\none\ntwo\nthree\n";
        let script = "echo one; echo two >&2; echo three";
        Play::new(&[("both", script)], &[block])?.is_true()
    }

    #[test]
    fn a_suspended_program_is_told_to_end_when_the_others_are_done() -> Result<()> {
        let play = Play::new(
            &[("service", SERVICE), ("examples/first", SIMPLE), ("quick", "echo done")],
            &[
                "$ cargo run -p service\nready\n^Z\n$ kill %1\nbye\n",
                "$ cargo run -p x --example first\nready\n^Z\n$ kill %1\n",
                "$ cargo run -p quick\ndone\n",
            ],
        )?;
        play.is_true()
    }

    #[test]
    fn a_program_can_end_by_itself_while_others_run() -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        let waits = "echo begun; while ! test -s \"$1\"; do sleep 0.01; done; echo ended";
        let play = Play::new(
            &[("waits", waits), ("writes", "echo x > \"$1\"")],
            &[
                &format!("$ cargo run -p waits -- {0}\nbegun\nended\n$\n", file.path().display()),
                &format!("$ cargo run -p writes -- {0}\n", file.path().display()),
            ],
        )?;
        play.is_true()
    }

    #[test]
    fn a_program_can_end_by_itself_after_a_suspended_one() -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        let file = file.path().display();
        let owes = "trap 'echo x > \"$1\"; echo bye; exit 0' TERM
            echo ready
            while :; do sleep 0.01; done";
        let waits = "echo begun; while ! test -s \"$1\"; do sleep 0.01; done; echo ended";
        let play = Play::new(
            &[("owes", owes), ("waits", waits)],
            &[
                &format!("$ cargo run -p owes -- {file}\nready\n^Z\n$ kill %1\nbye\n"),
                &format!("$ cargo run -p waits -- {file}\nbegun\nended\n$\n"),
            ],
        )?;
        play.is_true()
    }

    #[test]
    fn pkill_hits_every_program_of_exactly_that_name() -> Result<()> {
        let programs = [("service", SERVICE), ("service-2", SERVICE)];
        let mut blocks = vec![
            "$ cargo run -p service\nready\nKilled\n",
            "$ cargo run -p service -- again\nready\nKilled\n",
            "$ cargo run -p service-2\nready\n^C\nbye\n",
            "$ pkill -KILL -x service\n",
        ];
        Play::new(&programs, &blocks)?.is_true()?;
        // The second time there is none left.
        blocks.push("$ pkill -KILL -x service\n");
        assert!(Play::new(&programs, &blocks)?.is_true().is_err());
        Ok(())
    }

    #[test]
    fn what_differs_is_rewritten_and_nothing_else() -> Result<()> {
        let play = Play::new(
            &[("service", SERVICE), ("quick", "echo done in 3 ms")],
            &[
                "$ cargo run -p quick\ndone in [..] ms\n$ cargo run -p quick\ndone in 4 ms\n",
                "$ cargo run -p service\nready\n^C\nfarewell\n",
            ],
        )?;
        let mut server = Server::start()?;
        assert_eq!(
            play.play(Host::Own(&mut server))?,
            [
                "$ cargo run -p quick\ndone in [..] ms\n$ cargo run -p quick\ndone in 3 ms\n",
                "$ cargo run -p service\nready\n^C\nbye\n",
            ]
        );
        Ok(())
    }

    #[test]
    fn a_scene_can_kill_its_server_and_start_it_again() -> Result<()> {
        let play = Play::new(
            &[],
            &[
                "$ cargo xtask up --fresh\n...\nKilled\n",
                "$ pkill -KILL -x nats-server\n",
                "$ cargo xtask up\n...\nKilled\n",
                "$ pkill -KILL -x nats-server\n",
                "$ cargo xtask up --fresh\n...\n",
                "$ printf 'CONNECT {}\\r\\nPUB hello 2\\r\\nhi\\r\\n' | nc -w 1 localhost 4222 > /dev/null\n",
            ],
        )?;
        let mut server = Server::start()?;
        let kept = server.folder().join("store/kept");
        fs::write(&kept, "")?;
        assert_eq!(play.play(Host::Own(&mut server))?, play.blocks);
        assert!(!kept.exists());
        assert_eq!(server.log().join("\n").matches("Server is ready").count(), 3);
        assert_eq!(server.monitor("/varz")?["in_msgs"], 1);
        assert!(play.play(Host::Running(None)).is_err());
        Ok(())
    }

    #[test]
    fn a_scene_can_press_keys_and_name_the_ports_of_its_servers() -> Result<()> {
        let play = Play::new(
            &[("shows", "echo \"$NATS_URL\"")],
            &[
                "$ cargo xtask up --cluster\n...\n",
                "k2\nn2 was killed\n",
                "$ cargo run -p shows\nfrom\n",
                "$ export NATS_URL=nats://localhost:4233,nats://localhost:4231\n$ cargo run -p shows\nfrom\n",
            ],
        )?;
        let mut cluster = Cluster::start(3)?;
        let blocks = play.play(Host::Several(&mut cluster))?;
        assert_eq!(blocks[..2], play.blocks[..2]);
        assert!(!cluster.servers[1].is_running());
        assert_eq!(blocks[2], format!("$ cargo run -p shows\n{}\n", cluster.url()));
        let [first, _, third] = &cluster.servers[..] else { bail!("three servers") };
        let urls = [third, first].map(|server| format!("nats://localhost:{}", server.port()));
        assert!(blocks[3].ends_with(&format!("shows\n{}\n", urls.join(","))), "{}", blocks[3]);
        assert!(play.play(Host::Running(None)).is_err());
        Ok(())
    }

    #[test]
    fn a_port_is_replaced_once_and_as_a_whole() {
        let ports = [(4231, 18315), (1831, 20000), (4232, 1831)];
        let value =
            "nats://localhost:4231,nats://localhost:4232 mqtt://localhost:1831/a //localhost:42";
        let here =
            "nats://localhost:18315,nats://localhost:1831 mqtt://localhost:20000/a //localhost:42";
        assert_eq!(with_ports(value, &ports), here);
    }

    #[test]
    fn a_block_that_cannot_be_played_is_refused() {
        for block in
            ["output first\n", "$ unknown command\n", "$ cargo run -p a\n^C\n$ cargo run -p b\n"]
        {
            assert!(Terminal::parse(block, 0..block.len()).is_err(), "{block}");
        }
    }
}
