//! The backend as a process of its own, and a small HTTP client. The tests in a browser use it, too.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use live::{Lesson, Live, Subject, cast};
use serde_json::Value;
use testkit::Program;

/// Set in the environment of the process that is the backend: what it looks at.
const BACKEND: &str = "LIVE_TEST_BACKEND";
/// The port at which it begins to look for a free one.
const PORT: &str = "LIVE_TEST_PORT";
/// Time for what usually takes moments.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Not a test of its own: the process that the others start.
#[test]
fn serve() -> Result<()> {
    let Some(subject) = std::env::var_os(BACKEND) else { return Ok(()) };
    let subject = match subject.to_str() {
        Some("") | None => Subject::Programs(programs()?),
        Some(url) => Subject::Server(url.to_owned()),
    };
    let lesson = |scene: &String| {
        let text = "# A lesson".to_owned();
        (scene.clone(), Lesson { title: scene.clone(), question: "Why?".into(), text })
    };
    let lessons = cast::experiments().iter().map(lesson).collect();
    let port = std::env::var(PORT).ok().and_then(|port| port.parse().ok()).unwrap_or(18_300);
    let live = Live::start(subject, lessons, port)?;
    writeln!(std::io::stderr(), "port {}", live.port())?;
    live.run()
}

/// The programs, which were built beside this test.
pub fn programs() -> Result<HashMap<String, PathBuf>> {
    let runs = cast::ROLES.iter().flat_map(|role| role.first.iter().chain([&role.service]));
    let programs = runs.map(|run| {
        let path = testkit::program(run.program);
        let shown = path.display();
        ensure!(path.exists(), "{shown} is not built: cargo build --workspace --bins --examples");
        Ok((run.program.to_owned(), path))
    });
    programs.collect()
}

/// The backend, in a process of its own.
pub struct Backend {
    pub process: Program,
    pub port: u16,
    pub token: String,
}

impl Backend {
    /// Starts it with programs.
    pub fn start() -> Result<Self> {
        Self::start_on(18_300)
    }

    /// Starts it with programs, on this port if it is free.
    pub fn start_on(port: u16) -> Result<Self> {
        Self::spawn("", port)
    }

    pub fn spawn(server: &str, port: u16) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--exact", "process::serve", "--nocapture"]).env(BACKEND, server);
        command.env(PORT, port.to_string());
        let mut process = Program::spawn(&mut command)?.timeout(PATIENCE);
        let line = process.expect_stderr("port ")?;
        let port = line.trim_start_matches("port ").parse()?;
        let mut backend = Self { process, port, token: String::new() };
        let (_, body) = backend.request("GET", "/token", &[])?;
        let token: Value = serde_json::from_str(&body)?;
        token["token"].as_str().context("no token")?.clone_into(&mut backend.token);
        Ok(backend)
    }

    /// Sends a request with these headers, `Host` included unless one is given.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(u16, String)> {
        let mut stream = self.send(method, path, headers)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = format!("{method} {path} HTTP/1.0\r\n");
        if headers.iter().all(|(name, _)| *name != "Host") {
            write!(text, "Host: 127.0.0.1:{}\r\n", self.port)?;
        }
        for (name, value) in headers {
            write!(text, "{name}: {value}\r\n")?;
        }
        write!(stream, "{text}Content-Length: 0\r\n\r\n")?;
        Ok(stream)
    }

    /// The processes that it has started, by their command lines; those that were started by them,
    /// too.
    pub fn started(&self) -> Result<Vec<(u32, String)>> {
        let all = processes()?;
        let mut found = vec![(self.process.id(), String::new())];
        let mut at = 0;
        while at < found.len() {
            let parent = found[at].0;
            let children = all.iter().filter(|(_, of, _)| *of == parent);
            found.extend(children.map(|(pid, _, command)| (*pid, command.clone())));
            at += 1;
        }
        Ok(found.split_off(1))
    }

    /// The id of the process whose command line contains `text`, if there is one.
    pub fn find(&self, text: &str) -> Result<Option<u32>> {
        let started = self.started()?;
        Ok(started.iter().find(|(_, command)| command.contains(text)).map(|(pid, _)| *pid))
    }

    /// Kills it, as `kill -9` does.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }
}

/// The processes of this machine that have not ended: the id of each, that of its parent, and its
/// command line.
pub fn processes() -> Result<Vec<(u32, u32, String)>> {
    let output = Command::new("ps").args(["-axo", "pid=,ppid=,stat=,args="]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let process = |line: &str| {
        let mut words = line.split_whitespace();
        let (pid, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        // A zombie has ended.
        let is_zombie = words.next()?.starts_with('Z');
        (!is_zombie).then(|| (pid, parent, words.collect::<Vec<_>>().join(" ")))
    };
    Ok(text.lines().filter_map(process).collect())
}
