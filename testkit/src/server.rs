//! A real nats-server of one's own.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::port::Port;
use crate::program::{Program, Signal, TIMEOUT};
use crate::provision::nats_server;

/// The folder of the store, inside the server's own.
const STORE: &str = "store";

/// What a server is started with: JetStream, MQTT and monitoring, unless told otherwise.
#[derive(Debug, Default)]
pub struct Options {
    no_jetstream: bool,
    tls: bool,
    config: String,
}

impl Options {
    /// Without JetStream, and so without MQTT, which needs it.
    #[must_use]
    pub fn no_jetstream(mut self) -> Self {
        self.no_jetstream = true;
        self
    }

    /// Adds text to the configuration file: users, limits, TLS.
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

    /// Starts the server and waits until it answers.
    ///
    /// # Errors
    ///
    /// Where there is no nats-server binary, or it does not start; with what it logged.
    pub fn start(self) -> Result<Server> {
        Server::with(self, "server", "")
    }
}

/// A private nats-server on 127.0.0.1, with ports and a store of its own. It is killed, and its
/// store removed, when this value, or this process, is gone.
#[derive(Debug)]
pub struct Server {
    folder: TempDir,
    options: Options,
    client: Port,
    mqtt: Port,
    monitoring: Port,
    process: Option<Program>,
    /// What processes before the present one have logged.
    history: Vec<String>,
    quiet: bool,
}

impl Server {
    /// Starts one with JetStream, MQTT and monitoring, and waits until it answers.
    ///
    /// # Errors
    ///
    /// Where there is no nats-server binary, or it does not start; with what it logged.
    pub fn start() -> Result<Self> {
        Options::default().start()
    }

    /// What to start one with.
    #[must_use]
    pub fn options() -> Options {
        Options::default()
    }

    fn with(options: Options, name: &str, more: &str) -> Result<Self> {
        let mut server = Self::prepared(options, name, more)?;
        server.restart()?;
        Ok(server)
    }

    /// A server with all it needs, not started yet.
    fn prepared(options: Options, name: &str, more: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("nats-server-").tempdir()?;
        let (client, mqtt, monitoring) = (Port::claim()?, Port::claim()?, Port::claim()?);
        let mut config = format!(
            "server_name: {name}\nlisten: \"127.0.0.1:{}\"\nhttp: \"127.0.0.1:{}\"\n{}{more}",
            client.number(),
            monitoring.number(),
            options.config,
        );
        if !options.no_jetstream {
            let store = folder.path().join(STORE);
            writeln!(config, "jetstream {{ store_dir: \"{}\" }}", store.display())?;
            writeln!(config, "mqtt {{ listen: \"127.0.0.1:{}\" }}", mqtt.number())?;
        }
        fs::write(folder.path().join("nats.conf"), config)?;
        Ok(Self {
            folder,
            options,
            client,
            mqtt,
            monitoring,
            process: None,
            history: Vec::new(),
            quiet: false,
        })
    }

    /// Does not show its log when dropped. The test harness shows the log of a test that failed;
    /// elsewhere nobody hides it.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    fn launch(&mut self) -> Result<()> {
        let mut command = Command::new(nats_server()?);
        command.arg("-c").arg(self.folder.path().join("nats.conf"));
        self.process =
            Some(Program::spawn_guarded(&mut command, Some(self.folder.path()), None)?.quiet());
        Ok(())
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    fn process(&mut self) -> Result<&mut Program> {
        self.process.as_mut().context("the server is not running")
    }

    /// Kills it as `kill -9` does: no farewell to clients, nothing flushed.
    ///
    /// # Errors
    ///
    /// Where it is not running.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::KILL)
    }

    /// Stops it as an operator does (SIGTERM), and waits for its end.
    ///
    /// # Errors
    ///
    /// Where it is not running, or does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.end(Signal::TERM)
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        let process = self.process()?;
        process.signal(signal)?;
        let ended = process.wait()?;
        self.history.extend(ended.stderr);
        self.process = None;
        Ok(())
    }

    /// Starts it again, on the same ports and with the same store, and waits until it answers.
    ///
    /// # Errors
    ///
    /// Where it runs already, or does not start; with what it logged.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the server runs already");
        self.launch()?;
        self.ready()
    }

    /// Removes what the server has stored.
    ///
    /// # Errors
    ///
    /// If the server is running, or the folder cannot be removed.
    pub fn remove_store(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the server is running");
        let store = self.folder.path().join(STORE);
        if store.exists() {
            fs::remove_dir_all(store)?;
        }
        Ok(())
    }

    fn ready(&mut self) -> Result<()> {
        // Said when clients can connect, and JetStream has recovered what it stores.
        self.process()?.expect_stderr("Server is ready")?;
        Ok(())
    }

    /// Its URL for NATS clients.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.options.tls { "tls" } else { "nats" };
        format!("{scheme}://127.0.0.1:{}", self.port())
    }

    /// Its URL for MQTT clients.
    #[must_use]
    pub fn mqtt_url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.mqtt_port())
    }

    /// Its port for NATS clients.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.client.number()
    }

    /// Its port for MQTT clients.
    #[must_use]
    pub fn mqtt_port(&self) -> u16 {
        self.mqtt.number()
    }

    /// Its process id.
    ///
    /// # Errors
    ///
    /// Where it is not running.
    pub fn id(&mut self) -> Result<u32> {
        Ok(self.process()?.id())
    }

    /// The folder of its configuration and its store.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A command for `program` that finds this server: `NATS_URL` and `MQTT_URL` are set, and
    /// nothing else in the environment says who connects, or changes what is logged.
    pub fn command(&self, program: impl Into<PathBuf>) -> Command {
        let mut command = isolated(program);
        command.env("NATS_URL", self.url()).env("MQTT_URL", self.mqtt_url());
        command
    }

    /// What its monitoring answers to `path`, such as `/connz?subs=1`, `/subsz` or `/jsz`.
    ///
    /// # Errors
    ///
    /// Where it does not answer.
    pub fn monitor(&self, path: &str) -> Result<Value> {
        let url = format!("http://127.0.0.1:{}{path}", self.monitoring.number());
        let mut answer = ureq::get(&url).call().with_context(|| format!("cannot ask {url}"))?;
        Ok(answer.body_mut().read_json()?)
    }

    /// Asks monitoring for `path` until the answer satisfies `is_enough`, and returns that answer.
    /// The server announces no event for what monitoring alone can tell.
    ///
    /// # Errors
    ///
    /// Where it is not satisfied within 60 s; with the last answer.
    pub fn monitor_until(&self, path: &str, is_enough: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let answer = self.monitor(path)?;
            if is_enough(&answer) {
                return Ok(answer);
            }
            ensure!(Instant::now() < deadline, "waited in vain for {path}, last: {answer:#}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until `count` subscriptions to exactly `subject` exist.
    ///
    /// # Errors
    ///
    /// Where there are not as many within 60 s.
    pub fn wait_for_subscriptions(&self, subject: &str, count: usize) -> Result<()> {
        let path = "/subsz?subs=1&limit=100000";
        self.monitor_until(path, |subsz| {
            let list = subsz["subscriptions_list"].as_array();
            let matching = list.into_iter().flatten().filter(|sub| sub["subject"] == subject);
            matching.count() == count
        })?;
        Ok(())
    }

    /// Waits until JetStream's API answers through this server. In a new cluster a server knows of
    /// the leader some time before it knows the way there, and drops requests in between.
    fn wait_for_api(&self) -> Result<()> {
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

    /// What it has logged, over all restarts.
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
    }
}

/// Several servers that are one cluster, with JetStream.
#[derive(Debug)]
pub struct Cluster {
    /// Its servers.
    pub servers: Vec<Server>,
    /// Held, so that nobody else gets them.
    _routes: Vec<Port>,
}

impl Cluster {
    /// Starts `size` servers and waits until they have elected a leader of their metadata.
    ///
    /// # Errors
    ///
    /// Where a server does not start, or there is no leader within 60 s.
    pub fn start(size: usize) -> Result<Self> {
        let routes = (0..size).map(|_| Port::claim()).collect::<Result<Vec<_>>>()?;
        let urls = routes.iter().map(|port| format!("\"nats://127.0.0.1:{}\"", port.number()));
        let urls = urls.collect::<Vec<_>>().join(", ");
        let mut servers = Vec::new();
        for (n, port) in routes.iter().enumerate() {
            let cluster = format!(
                "cluster {{ name: playground, listen: \"127.0.0.1:{}\", routes: [{urls}] }}\n",
                port.number()
            );
            let mut server =
                Server::prepared(Options::default(), &format!("n{}", n + 1), &cluster)?;
            server.launch()?;
            servers.push(server);
        }
        for server in &mut servers {
            server.ready()?;
        }
        let cluster = Self { servers, _routes: routes };
        cluster.wait_until_healthy()?;
        Ok(cluster)
    }

    /// Waits until every server that runs has what JetStream needs: a leader, and its own part up
    /// to date.
    ///
    /// # Errors
    ///
    /// Where that takes more than 60 s.
    pub fn wait_until_healthy(&self) -> Result<()> {
        let running = self.servers.iter().filter(|server| server.process.is_some());
        for server in running {
            server.monitor_until("/jsz", |jsz| {
                let cluster = &jsz["meta_cluster"];
                cluster["leader"].is_string() && cluster["cluster_size"] == self.servers.len()
            })?;
            server.wait_for_api()?;
        }
        Ok(())
    }

    /// The URLs of all servers, separated by commas.
    #[must_use]
    pub fn url(&self) -> String {
        self.servers.iter().map(Server::url).collect::<Vec<_>>().join(",")
    }
}

/// A command that sees none of the environment variables which a program of the playground
/// reads: no server, no credentials, no log filter.
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
