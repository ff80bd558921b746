//! Connection flags, and the connection they describe.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail};
use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError,
};
use futures::StreamExt;
use percent_encoding::percent_decode_str;
use tokio::sync::{Notify, SetOnce};
use tokio::time::timeout;

use crate::process;

const DEFAULT_SERVER: &str = "nats://localhost:4222";

/// The whole of connecting: looking up names, every address of every server, TLS, the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(4_500);
/// One address of them.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// The last flush and the server's answer to it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection on which nothing comes back (a pulled cable closes nothing) is given up when the
/// third ping falls due: after 15 s, where the library's default needs three minutes.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Between two attempts to reconnect. The library's own pauses grow to 4 s, and a server that is
/// back would wait for its clients that long.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);
/// Between two reports of dropped messages, of which there can be thousands a second.
const DROPS_INTERVAL: Duration = Duration::from_secs(5);

/// What the server would not let this program do: its words. A program has one connection.
static DENIED: SetOnce<String> = SetOnce::const_new();
static CLOSED: SetOnce<()> = SetOnce::const_new();
static LOST: Notify = Notify::const_new();
/// The subject of the last message: see [`close`].
static LAST: SetOnce<String> = SetOnce::const_new();
/// The server has seen the last message.
static SEEN: SetOnce<()> = SetOnce::const_new();

/// Where the NATS server is, and who we are there: flags and environment variables with the names
/// of the official command-line client. Global, so that they may follow a subcommand.
#[derive(clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct NatsArgs {
    /// NATS server, or several servers of one cluster separated by commas
    #[arg(
        short,
        long,
        global = true,
        env = "NATS_URL",
        hide_env_values = true,
        default_value = DEFAULT_SERVER,
        value_name = "URL",
        value_delimiter = ','
    )]
    server: Vec<String>,
    /// Credentials file (JWT and seed)
    #[arg(
        long,
        global = true,
        env = "NATS_CREDS",
        hide_env_values = true,
        value_name = "FILE"
    )]
    creds: Option<String>,
    /// File with the seed of an NKEY
    #[arg(
        long,
        global = true,
        env = "NATS_NKEY",
        hide_env_values = true,
        value_name = "FILE"
    )]
    nkey: Option<String>,
    /// User name, or a token where no password is given
    #[arg(long, global = true, env = "NATS_USER", hide_env_values = true)]
    user: Option<String>,
    /// Password
    #[arg(long, global = true, env = "NATS_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// Token
    #[arg(long, global = true, env = "NATS_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Certificate authority that signed the server's certificate, where the system does not know it
    #[arg(
        long,
        global = true,
        env = "NATS_CA",
        hide_env_values = true,
        value_name = "FILE"
    )]
    tlsca: Option<String>,
    /// Client certificate (X.509 v3)
    #[arg(
        long,
        global = true,
        env = "NATS_CERT",
        hide_env_values = true,
        value_name = "FILE",
        requires = "tlskey"
    )]
    tlscert: Option<String>,
    /// Private key of the client certificate
    #[arg(
        long,
        global = true,
        env = "NATS_KEY",
        hide_env_values = true,
        value_name = "FILE",
        requires = "tlscert"
    )]
    tlskey: Option<String>,
}

/// The servers as people write them, without any secret: for errors that have to say where.
impl fmt::Display for NatsArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls = |(servers, _): (Vec<ServerAddr>, _)| {
            servers.iter().map(url).collect::<Vec<_>>().join(",")
        };
        f.write_str(&self.servers().map(urls).unwrap_or_default())
    }
}

impl NatsArgs {
    /// Connects under `name`, the program's own: the server's `/connz` lists it.
    ///
    /// The connection reconnects by itself for as long as it lives, and says on stderr, once
    /// each, that it was lost and regained. What the server denies ends the program: see
    /// [`run`](crate::run).
    ///
    /// # Errors
    ///
    /// One line that says which server, what went wrong and what to do, without any secret.
    pub async fn connect(&self, name: &str) -> Result<Client> {
        self.connect_with(name, |options| options).await
    }

    /// As [`connect`](Self::connect), with further settings of the client library's.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn connect_with(
        &self,
        name: &str,
        settings: impl FnOnce(ConnectOptions) -> ConnectOptions,
    ) -> Result<Client> {
        self.connect_as(name, |_| true, settings).await
    }

    /// As [`connect`](Self::connect), for a program that publishes only replies. Their subjects
    /// are the requesters' choice, so a denied one is a requester's mistake: it is logged, and
    /// stops nobody.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn connect_responder(&self, name: &str) -> Result<Client> {
        let is_fatal = |denied: &str| !denied.contains("Violation for Publish");
        self.connect_as(name, is_fatal, |options| options).await
    }

    async fn connect_as(
        &self,
        name: &str,
        is_fatal: fn(&str) -> bool,
        settings: impl FnOnce(ConnectOptions) -> ConnectOptions,
    ) -> Result<Client> {
        let (servers, login) = self.servers()?;
        let urls = servers.iter().map(url).collect::<Vec<_>>().join(",");
        let options = settings(self.options(login)?)
            .name(name)
            .connection_timeout(HANDSHAKE_TIMEOUT)
            .ping_interval(PING_INTERVAL)
            .reconnect_delay_callback(|attempt| match attempt {
                0 | 1 => Duration::ZERO,
                _ => RECONNECT_DELAY,
            })
            .event_callback({
                let report = Report {
                    urls: urls.clone(),
                    is_fatal,
                    lost: AtomicBool::new(false),
                    told_of_drops: Mutex::new(None),
                };
                move |event| {
                    report.event(&event);
                    std::future::ready(())
                }
            });
        let connecting = async { Ok(timeout(CONNECT_TIMEOUT, options.connect(servers)).await) };
        match process::unless_stopped(connecting).await? {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => Err(anyhow!("cannot connect to {urls}: {}", explain(&error))),
            Err(_) => bail!("cannot connect to {urls}: {}", silent()),
        }
    }

    /// The servers without user and password, and those two. The client library ignores them in
    /// an address, and prints them with it in its debug log.
    fn servers(&self) -> Result<(Vec<ServerAddr>, Option<Login>)> {
        let mut login = None;
        let mut servers = Vec::new();
        for text in self
            .server
            .iter()
            .map(|url| url.trim())
            .filter(|url| !url.is_empty())
        {
            let (server, own) = parse(text)?;
            login = login.or(own);
            servers.push(server);
        }
        if self.server == [""] {
            servers.push(DEFAULT_SERVER.parse()?); // an environment variable that says nothing
        }
        if servers.is_empty() {
            bail!("no server is named: give one with --server nats://HOST:PORT");
        }
        Ok((servers, login))
    }

    fn options(&self, login: Option<Login>) -> Result<ConnectOptions> {
        let mut options = ConnectOptions::new();
        let user = given(self.user.as_ref()).map(|user| Login {
            user: user.to_owned(),
            password: None,
        });
        if let Some(Login { user, password }) = login.or(user) {
            let flag = given(self.password.as_ref()).map(ToOwned::to_owned);
            options = match password.or(flag) {
                Some(password) => options.user_and_password(user, password),
                None => options.token(user),
            };
        }
        if let Some(token) = given(self.token.as_ref()) {
            options = options.token(token.to_owned());
        }
        if let Some(path) = given(self.creds.as_ref()) {
            let creds = read("--creds", path)?;
            // The library's error can hold a part of the file.
            options = options
                .credentials(&creds)
                .map_err(|_| anyhow!("--creds {path}: not a NATS credentials file"))?;
        }
        if let Some(path) = given(self.nkey.as_ref()) {
            let seed = read("--nkey", path)?;
            let seed = seed.split_whitespace().find(|word| word.starts_with("SU"));
            let seed = seed.with_context(|| format!("--nkey {path}: holds no user seed (SU…)"))?;
            options = options.nkey(seed.to_owned());
        }
        if let Some(path) = given(self.tlsca.as_ref()) {
            read("--tlsca", path)?;
            options = options.add_root_certificates(path.into());
        }
        if let (Some(cert), Some(key)) = (given(self.tlscert.as_ref()), given(self.tlskey.as_ref()))
        {
            read("--tlscert", cert)?;
            read("--tlskey", key)?;
            options = options.add_client_certificate(cert.into(), key.into());
        }
        Ok(options)
    }
}

/// An environment variable that is set and empty says nothing.
fn given(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

/// Sends what is still waiting, and closes the connection when the server has handled all of it.
///
/// Without this the last messages of a program are lost: `publish` hands them to a buffer and
/// `flush` to the socket, and both die with the process.
///
/// # Errors
///
/// Where the server does not confirm within 3 s: it may or may not have received the rest. Once
/// the program was told to stop, that is a warning only: a server that is away keeps nobody from
/// stopping in good order.
pub async fn close(client: &Client) -> Result<()> {
    let closed = async {
        // The client library has no call that waits for the server's answer. But a server handles
        // what comes on a connection in order: when a message of ours to ourselves is back, it
        // has handled all others. Denying it is as good an answer.
        let inbox = client.new_inbox();
        let _ = LAST.set(inbox.clone());
        let mut last = client.subscribe(inbox.clone()).await?;
        client.publish(inbox, "".into()).await?;
        tokio::select! {
            _ = last.next() => {}
            () = SEEN.wait() => {}
        }
        client.drain().await?;
        // Events come in order, too: whatever was denied is known by then.
        CLOSED.wait().await;
        Ok::<_, Error>(())
    };
    let result = match timeout(CLOSE_TIMEOUT, closed).await {
        Ok(result) => result.context("cannot close the connection"),
        Err(_) => Err(anyhow!(
            "the server did not confirm the last messages within {CLOSE_TIMEOUT:?}: they may not have arrived"
        )),
    };
    if let Some(denied) = DENIED.get() {
        bail!(denied.clone());
    }
    match result {
        Err(error) if process::is_shutting_down() => {
            tracing::warn!("{error:#}");
            Ok(())
        }
        result => result,
    }
}

/// Resolves when the connection that there is at the time of the call is lost. What was asked on it
/// is not answered any more: the client library reconnects, but does not ask again, and waits for
/// the answer until its time is up.
///
/// It counts from the call on, whether it is awaited yet or not.
pub fn lost() -> impl Future<Output = ()> {
    LOST.notified()
}

/// Resolves with the error when the server denies something that the program depends on.
pub(crate) async fn denied() -> Error {
    anyhow!(DENIED.wait().await.clone())
}

/// Tells on stderr what happens to a connection.
struct Report {
    urls: String,
    is_fatal: fn(&str) -> bool,
    lost: AtomicBool,
    told_of_drops: Mutex<Option<Instant>>,
}

impl Report {
    fn event(&self, event: &Event) {
        let urls = &self.urls;
        match event {
            Event::Disconnected => {
                LOST.notify_waiters();
                if !self.lost.swap(true, Ordering::Relaxed) {
                    tracing::warn!("lost the connection to {urls}, reconnecting");
                }
            }
            Event::Connected if self.lost.swap(false, Ordering::Relaxed) => {
                tracing::info!("connected to {urls} again");
            }
            Event::Closed => {
                let _ = CLOSED.set(());
            }
            Event::ServerError(ServerError::Other(text))
                if text.starts_with("Permissions Violation") =>
            {
                if LAST.get().is_some_and(|subject| text.contains(subject)) {
                    let _ = SEEN.set(());
                } else if (self.is_fatal)(text) {
                    let _ = DENIED.set(format!(
                        "{urls} denied it: {text}; connect as a user that may, with --user or --creds"
                    ));
                } else {
                    tracing::warn!("{urls} denied it: {text}");
                }
            }
            Event::ServerError(error) => tracing::warn!("{urls} reports: {error}"),
            // One for each message dropped, as long as there is room for events.
            Event::SlowConsumer(_) => {
                let mut told = self
                    .told_of_drops
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                if told.is_none_or(|told| told.elapsed() > DROPS_INTERVAL) {
                    *told = Some(Instant::now());
                    tracing::warn!("messages come faster than they are handled: some were dropped");
                }
            }
            // Each failed attempt to reconnect is one of these.
            other => tracing::debug!("{other}"),
        }
    }
}

/// A user and a password, or a user alone, which then is a token.
struct Login {
    user: String,
    password: Option<String>,
}

/// Takes an address apart. Errors do not repeat it: it may hold a password.
fn parse(text: &str) -> Result<(ServerAddr, Option<Login>)> {
    const EXPECTED: &str = "expected nats://HOST:PORT or tls://HOST:PORT";
    let malformed = |why: &str| anyhow!("malformed server URL: {why}; {EXPECTED}");
    let address: ServerAddr = text.parse().map_err(|error: std::io::Error| {
        malformed(
            error
                .to_string()
                .trim_start_matches("NATS server URL is invalid: "),
        )
    })?;
    if !matches!(address.scheme(), "nats" | "tls") {
        return Err(malformed("neither nats:// nor tls://"));
    }
    if address.host().is_empty() {
        return Err(malformed("empty host"));
    }
    let decode = |text: &str| {
        let text = percent_decode_str(text).decode_utf8();
        text.map(String::from)
            .map_err(|_| malformed("user or password is not UTF-8"))
    };
    let login = match address.username() {
        Some(user) => Some(Login {
            user: decode(user)?,
            password: address.password().map(decode).transpose()?,
        }),
        None => None,
    };
    let mut plain = address.into_inner();
    plain
        .set_username("")
        .and_then(|()| plain.set_password(None))
        .map_err(|()| malformed("no host"))?;
    Ok((ServerAddr::from_url(plain)?, login))
}

/// An address as people write it, with the port that is meant.
fn url(address: &ServerAddr) -> String {
    let host = address.host();
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    format!("{}://{host}:{}", address.scheme(), address.port())
}

fn read(flag: &str, path: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {flag} {path}"))
}

/// What went wrong, and what to do about it.
fn explain(error: &ConnectError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    let debug = format!("{error:?}");
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => {
            "it refuses these credentials; check --user and --password, --token, --creds or --nkey"
                .into()
        }
        ConnectErrorKind::Authentication => {
            "the challenge cannot be signed; check the seed in --nkey or --creds".into()
        }
        ConnectErrorKind::TimedOut => silent(),
        ConnectErrorKind::Dns => format!("unknown host ({text}); check --server"),
        _ if debug.contains("InvalidContentType") => {
            "it does not speak TLS; use nats:// in place of tls://".into()
        }
        _ if debug.contains("UnknownIssuer") => {
            "its certificate is signed by an unknown authority; name the file with --tlsca".into()
        }
        _ if debug.contains("CertificateRequired") => {
            "it asks for a client certificate; give one with --tlscert and --tlskey".into()
        }
        ConnectErrorKind::Tls => {
            format!("TLS failed ({text}); check --tlsca, --tlscert and --tlskey")
        }
        _ if debug.contains("InvalidCertificate") => {
            format!("its certificate is not accepted: {text}")
        }
        _ if text.contains("expected INFO") => {
            "what listens there is no NATS server; check --server".into()
        }
        _ => format!(
            "{text}; start a server with `cargo xtask up` or `docker compose up -d`, or name another with --server"
        ),
    }
}

fn silent() -> String {
    "no answer in time; check --server, the network and the server's health".into()
}
