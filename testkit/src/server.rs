//! A real nats-server for one test.

use std::fmt::{self, Write as _};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::port::Port;
use crate::program::{OnLine, Program, Signal, TIMEOUT};
use crate::provision::nats_server;

/// The folder of the store, inside the server's own.
const STORE: &str = "store";
/// Its configuration file, beside the store.
const CONFIGURATION: &str = "nats.conf";

/// The name of a server that is given none.
const NAME: &str = "server";

/// How a server is started: with JetStream, MQTT and monitoring by default.
#[derive(Debug, Default)]
pub struct Options {
    name: Option<String>,
    no_jetstream: bool,
    jetstream: String,
    tls: bool,
    config: String,
    mqtt: String,
    ports: Option<Ports>,
    folder: Option<PathBuf>,
    temporary: Option<TempDir>,
    on_line: Watched,
}

/// The ports of a server that others know.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// For NATS clients.
    pub nats: u16,
    /// For MQTT clients.
    pub mqtt: u16,
    /// For HTTP.
    pub monitoring: u16,
}

type Watch = dyn Fn(&str) + Send + Sync;

/// Who sees each line of a server's log as it comes.
#[derive(Clone, Default)]
struct Watched(Option<Arc<Watch>>);

impl Watched {
    fn on_line(&self) -> Option<OnLine> {
        let watch = self.0.clone()?;
        Some(Box::new(move |line| watch(line)))
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl Options {
    /// Gives it a name.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Lets it listen on these ports in place of free ones.
    #[must_use]
    pub fn ports(mut self, ports: Ports) -> Self {
        self.ports = Some(ports);
        self
    }

    /// Keeps its configuration and its store in this folder in place of a temporary one.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Calls `on_line` with each line of its log as it comes, on another thread.
    #[must_use]
    pub fn on_line(mut self, on_line: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.on_line = Watched(Some(Arc::new(on_line)));
        self
    }

    /// Adds text to the block `jetstream`, for a domain or limits.
    #[must_use]
    pub fn jetstream(mut self, text: &str) -> Self {
        self.jetstream = text.into();
        self
    }

    /// Starts it without JetStream, and so without MQTT, which needs JetStream.
    #[must_use]
    pub fn no_jetstream(mut self) -> Self {
        self.no_jetstream = true;
        self
    }

    /// Adds text to the configuration file, for users or limits.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.config.push_str(text);
        self.config.push('\n');
        self
    }

    /// Adds a `tls` block (see [`Certificates::server_config`](crate::Certificates)): clients
    /// connect with `tls://`.
    #[must_use]
    pub fn tls(mut self, block: &str) -> Self {
        self.tls = true;
        self.config(block)
    }

    /// Adds a `tls` block for MQTT: clients connect with `mqtts://`.
    #[must_use]
    pub fn mqtt_tls(mut self, block: &str) -> Self {
        self.mqtt = block.into();
        self
    }

    /// Gives the server a folder that has files already, for instance some that its configuration
    /// includes.
    #[must_use]
    pub fn temporary(mut self, folder: TempDir) -> Self {
        self.temporary = Some(folder);
        self
    }

    /// Starts the server, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If there is no nats-server binary, or it does not start. The error has its log.
    pub fn start(self) -> Result<Server> {
        let mut server = self.prepare()?;
        server.restart()?;
        Ok(server)
    }

    /// Makes a server with its ports and its configuration file, and does not start it:
    /// [`Server::restart`] does.
    ///
    /// # Errors
    ///
    /// If its files cannot be written.
    pub fn prepare(mut self) -> Result<Server> {
        let mut temporary = self.temporary.take();
        if let Some(folder) = &self.folder {
            fs::create_dir_all(folder)?;
        } else if temporary.is_none() {
            temporary = Some(tempfile::Builder::new().prefix("nats-server-").tempdir()?);
        }
        let folder = temporary.as_ref().map(TempDir::path).or(self.folder.as_deref());
        let folder = folder.context("no folder")?.to_owned();
        let [client, mqtt, monitoring] = match self.ports {
            Some(Ports { nats, mqtt, monitoring }) => [nats, mqtt, monitoring].map(Port::fixed),
            None => [Port::claim()?, Port::claim()?, Port::claim()?],
        };
        let mut config = format!(
            "server_name: {}\nlisten: \"127.0.0.1:{}\"\nhttp: \"127.0.0.1:{}\"\n{}",
            self.name.as_deref().unwrap_or(NAME),
            client.number(),
            monitoring.number(),
            self.config,
        );
        if !self.no_jetstream {
            let (store, more) = (folder.join(STORE), &self.jetstream);
            writeln!(config, "jetstream {{ store_dir: \"{}\"\n{more} }}", store.display())?;
            let (port, tls) = (mqtt.number(), &self.mqtt);
            writeln!(config, "mqtt {{ listen: \"127.0.0.1:{port}\"\n{tls} }}")?;
        }
        fs::write(folder.join(CONFIGURATION), config)?;
        Ok(Server {
            folder,
            temporary,
            options: self,
            client,
            mqtt,
            monitoring,
            process: None,
            history: Vec::new(),
            quiet: false,
        })
    }
}

/// A private nats-server on 127.0.0.1, with ports and a store of its own. It is killed, and its
/// store removed, when this value is dropped or this process ends.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    /// The same folder, if it is removed with the server.
    temporary: Option<TempDir>,
    options: Options,
    client: Port,
    mqtt: Port,
    monitoring: Port,
    process: Option<Program>,
    /// The logs of the processes before the present one.
    history: Vec<String>,
    quiet: bool,
}

impl Server {
    /// Starts a server with JetStream, MQTT and monitoring, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If there is no nats-server binary, or it does not start. The error has its log.
    pub fn start() -> Result<Self> {
        Options::default().start()
    }

    /// Returns the default options, to be changed before the start.
    #[must_use]
    pub fn options() -> Options {
        Options::default()
    }

    /// Does not show the server's log when it is dropped. By default it is shown on stderr, which
    /// the test harness hides if the test succeeds.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.be_quiet();
        self
    }

    /// As [`quiet`](Self::quiet), for a server that is part of something.
    pub fn be_quiet(&mut self) {
        self.quiet = true;
    }

    pub(crate) fn launch(&mut self) -> Result<()> {
        let mut command = Command::new(nats_server()?);
        command.arg("-c").arg(self.folder.join(CONFIGURATION));
        let removed = self.temporary.as_ref().map(TempDir::path);
        let [stdout, stderr] = [None, self.options.on_line.on_line()];
        let process = Program::spawn_guarded(&mut command, removed, [stdout, stderr])?;
        self.process = Some(process.quiet());
        Ok(())
    }

    /// Whether it is running, suspended or not.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.is_running().unwrap_or(false))
    }

    fn process(&mut self) -> Result<&mut Program> {
        self.process.as_mut().context("the server is not running")
    }

    /// Kills the server, as `kill -9` does: it tells clients nothing, and flushes nothing.
    ///
    /// # Errors
    ///
    /// If it is not running.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::KILL)
    }

    /// Sends SIGTERM to the server, as an operator does, and waits for its end.
    ///
    /// # Errors
    ///
    /// If it is not running, or does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.end(Signal::TERM)
    }

    /// Lets the server leave: it takes no more clients, closes the connections of those it has one by
    /// one after its `lame_duck_grace_period`, and ends.
    ///
    /// # Errors
    ///
    /// If it is not running.
    pub fn lame_duck(&mut self) -> Result<()> {
        self.process()?.signal(Signal::USR2)
    }

    /// Waits for the end of a server that ends by itself.
    ///
    /// # Errors
    ///
    /// If it is not running, or does not end.
    pub fn wait(&mut self) -> Result<()> {
        let ended = self.process()?.wait()?;
        self.history.extend(ended.stderr);
        self.process = None;
        Ok(())
    }

    /// Suspends the server: it accepts bytes, and handles none of them. [`kill`](Self::kill) ends it
    /// nevertheless.
    ///
    /// # Errors
    ///
    /// If it is not running.
    pub fn suspend(&mut self) -> Result<()> {
        self.process()?.suspend()
    }

    /// Ends [`suspend`](Self::suspend): the server handles what has come meanwhile.
    ///
    /// # Errors
    ///
    /// If it is not running.
    pub fn resume(&mut self) -> Result<()> {
        self.process()?.signal(Signal::CONT)
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        self.process()?.signal(signal)?;
        self.wait()
    }

    /// Starts the server again, on the same ports and with the same store, and waits until it is
    /// ready.
    ///
    /// # Errors
    ///
    /// If it is running, or does not start. The error has its log.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(!self.is_running(), "the server is running");
        if self.process.is_some() {
            // It has ended by itself.
            self.wait()?;
        }
        self.launch()?;
        self.ready()
    }

    /// Replaces `old` by `new` in the server's configuration, and waits until the running server has
    /// taken it over.
    ///
    /// # Errors
    ///
    /// If the configuration does not contain `old`. If the server is not running or refuses it.
    pub fn reconfigure(&mut self, old: &str, new: &str) -> Result<()> {
        let path = self.folder.join(CONFIGURATION);
        let config = fs::read_to_string(&path)?;
        ensure!(config.contains(old), "{old:?} is not in the configuration");
        fs::write(&path, config.replace(old, new))?;
        self.reload()
    }

    /// Lets the running server read its configuration again, and waits until it has taken that over.
    ///
    /// # Errors
    ///
    /// If the server is not running or refuses it.
    pub fn reload(&mut self) -> Result<()> {
        let process = self.process()?;
        process.signal(Signal::HUP)?;
        process.expect_stderr("Reloaded server configuration")?;
        Ok(())
    }

    /// Removes what the server has stored.
    ///
    /// # Errors
    ///
    /// If the server is running, or the folder cannot be removed.
    pub fn remove_store(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the server is running");
        let store = self.folder.join(STORE);
        if store.exists() {
            fs::remove_dir_all(store)?;
        }
        Ok(())
    }

    pub(crate) fn ready(&mut self) -> Result<()> {
        // Logged when clients can connect and JetStream has recovered its streams.
        self.process()?.expect_stderr("Server is ready")?;
        Ok(())
    }

    /// The server's URL for NATS clients.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.options.tls { "tls" } else { "nats" };
        format!("{scheme}://127.0.0.1:{}", self.port())
    }

    /// The server's URL for MQTT clients.
    #[must_use]
    pub fn mqtt_url(&self) -> String {
        let scheme = if self.options.mqtt.is_empty() { "mqtt" } else { "mqtts" };
        format!("{scheme}://127.0.0.1:{}", self.mqtt_port())
    }

    /// The server's port for NATS clients.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.client.number()
    }

    /// The server's port for MQTT clients.
    #[must_use]
    pub fn mqtt_port(&self) -> u16 {
        self.mqtt.number()
    }

    /// The server's process id.
    ///
    /// # Errors
    ///
    /// If it is not running.
    pub fn id(&mut self) -> Result<u32> {
        Ok(self.process()?.id())
    }

    /// The server's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.options.name.as_deref().unwrap_or(NAME)
    }

    /// The folder that holds the server's configuration and its store.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns a command that runs `program` against this server: `NATS_URL` and `MQTT_URL` are
    /// set. Other variables of the environment that a program would read are removed, see
    /// [`isolated`].
    pub fn command(&self, program: impl Into<PathBuf>) -> Command {
        let mut command = isolated(program);
        command.env("NATS_URL", self.url()).env("MQTT_URL", self.mqtt_url());
        command
    }

    /// Returns the answer of the server's monitoring to `path`: `/connz?subs=1`, `/subsz`, `/jsz`.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn monitor(&self, path: &str) -> Result<Value> {
        let url = format!("http://127.0.0.1:{}{path}", self.monitoring.number());
        let mut answer = ureq::get(&url).call().with_context(|| format!("cannot ask {url}"))?;
        Ok(answer.body_mut().read_json()?)
    }

    /// Asks monitoring for `path` again and again until the answer satisfies `is_enough`, and
    /// returns that answer. The server has no event for this.
    ///
    /// # Errors
    ///
    /// If that takes more than 180 s. The error has the last answer.
    pub fn monitor_until(&self, path: &str, is_enough: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let answer = self.monitor(path)?;
            if is_enough(&answer) {
                return Ok(answer);
            }
            ensure!(
                Instant::now() < deadline,
                "{path} has not become what was expected, last: {answer:#}"
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until exactly `count` subscriptions to the subject `subject` exist.
    ///
    /// # Errors
    ///
    /// If that takes more than 180 s.
    pub fn wait_for_subscriptions(&self, subject: &str, count: usize) -> Result<()> {
        let path = "/subsz?subs=1&limit=100000";
        self.monitor_until(path, |subsz| {
            let list = subsz["subscriptions_list"].as_array();
            let matching = list.into_iter().flatten().filter(|sub| sub["subject"] == subject);
            matching.count() == count
        })?;
        Ok(())
    }

    /// Waits until this server of a cluster knows that `servers` others have a subscription to
    /// `subject`. Messages that come before are dropped.
    ///
    /// # Errors
    ///
    /// If that takes more than 180 s.
    pub fn wait_for_interest(&self, subject: &str, servers: usize) -> Result<()> {
        self.monitor_until("/routez?subs=1", |routez| {
            let routes = routez["routes"].as_array().into_iter().flatten();
            let leading_there = routes.filter(|route| {
                let subjects = route["subscriptions_list"].as_array();
                subjects.is_some_and(|list| list.iter().any(|it| it == subject))
            });
            leading_there.count() == servers
        })?;
        Ok(())
    }

    /// Waits until JetStream's API answers requests of this server's clients. In a new cluster a
    /// server knows the leader some time before it knows the route to it, and drops requests until
    /// then.
    pub(crate) fn wait_for_api(&self) -> Result<()> {
        const ASK: &[u8] =
            b"CONNECT {\"verbose\":false}\r\nSUB answer 1\r\nPUB $JS.API.INFO answer 0\r\n\r\n";
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port()))?;
            stream.set_read_timeout(Some(Duration::from_millis(250)))?;
            stream.write_all(ASK)?;
            let lines = BufReader::new(stream).lines().map_while(Result::ok);
            if lines.into_iter().any(|line| line.starts_with("MSG answer")) {
                return Ok(());
            }
        }
        bail!("JetStream does not answer at {}", self.url())
    }

    /// The server's log, over all restarts.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        let mut log = self.history.clone();
        log.extend(self.process.iter().flat_map(Program::stderr));
        log
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.quiet {
            let log = self.log();
            let tail = log[log.len().saturating_sub(40)..].join("\n");
            eprintln!("--- nats-server {} ---\n{tail}", self.url());
        }
        // Before its folder is removed: a server that runs makes files there meanwhile.
        self.process = None;
    }
}

/// Returns a command that runs `program` without the environment variables that a program of the
/// playground reads: no server, no credentials, no log filter.
pub fn isolated(program: impl Into<PathBuf>) -> Command {
    let mut command = Command::new(program.into());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("NATS_") || name.starts_with("MQTT_") || name.starts_with("RUST_LOG") {
            command.env_remove(&*name);
        }
    }
    command
}
