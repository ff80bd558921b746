//! The backend as a process of its own, and a small HTTP client.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use live::{Lesson, Live, Subject, cast};
use serde_json::Value;
use testkit::{Ended, Program, Signal};

/// Set in the environment of the process that is the backend: what it looks at.
const BACKEND: &str = "LIVE_TEST_BACKEND";
/// Time for what usually takes moments.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Not a test of its own: the process that the others start.
#[test]
fn serve() -> Result<()> {
    let Some(subject) = std::env::var_os(BACKEND) else { return Ok(()) };
    let subject = match subject.to_str() {
        Some("") | None => Subject::Programs(programs()?.clone()),
        Some(url) => Subject::Server(url.to_owned()),
    };
    let lesson = |scene: &String| {
        let text = "# A lesson".to_owned();
        (scene.clone(), Lesson { title: scene.clone(), question: "Why?".into(), text })
    };
    let lessons = cast::experiments().iter().map(lesson).collect();
    let live = Live::start(subject, lessons, 18_300)?;
    writeln!(std::io::stderr(), "port {}", live.port())?;
    live.run()
}

/// The programs, which cargo builds if need be.
pub fn programs() -> Result<&'static HashMap<String, PathBuf>> {
    static PROGRAMS: OnceLock<HashMap<String, PathBuf>> = OnceLock::new();
    if let Some(programs) = PROGRAMS.get() {
        return Ok(programs);
    }
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--bins", "--examples", "--message-format=json-render-diagnostics"]);
    for experiment in cast::experiments() {
        build.args(["--package", &experiment]);
    }
    let output = build.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut programs = HashMap::new();
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let message: Value = serde_json::from_slice(line)?;
        let name = message["target"]["name"].as_str();
        if let (Some(name), Some(path)) = (name, message["executable"].as_str()) {
            let is_example = message["target"]["kind"][0] == "example";
            let folder = if is_example { "examples/" } else { "" };
            programs.insert(format!("{folder}{name}"), PathBuf::from(path));
        }
    }
    Ok(PROGRAMS.get_or_init(|| programs))
}

/// The backend, in a process of its own.
pub struct Backend {
    process: Program,
    pub port: u16,
    pub token: String,
}

impl Backend {
    /// Starts it with programs.
    pub fn start() -> Result<Self> {
        Self::look_at("")
    }

    /// Lets it look at a server, or start programs if there is none.
    pub fn look_at(server: &str) -> Result<Self> {
        programs()?; // not while a time-out runs
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--exact", "http::serve", "--nocapture"]).env(BACKEND, server);
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

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = format!("{method} {path} HTTP/1.0\r\n");
        if headers.iter().all(|(name, _)| *name != "Host") {
            text += &format!("Host: 127.0.0.1:{}\r\n", self.port);
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        write!(stream, "{text}Content-Length: 0\r\n\r\n")?;
        Ok(stream)
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

    /// The processes that it has started, by their command lines; those that were started by them,
    /// too.
    pub fn started(&self) -> Result<Vec<(u32, String)>> {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc")?.filter_map(Result::ok) {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            // `pid (name) state parent …`; it may have ended meanwhile.
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
            let parent = parent.and_then(|parent| parent.parse::<u32>().ok());
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            parents.extend(parent.map(|parent| (pid, parent, command)));
        }
        let mut found = vec![(self.process.id(), String::new())];
        let mut at = 0;
        while at < found.len() {
            let parent = found[at].0;
            let children = parents.iter().filter(|(_, of, _)| *of == parent);
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

    /// Kills it, as `kill -9` does.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
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
