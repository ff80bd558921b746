//! Connection flags.

use std::fs;

use anyhow::{Context, Result, anyhow, ensure};
use async_nats::{Auth, AuthError, ConnectOptions, ServerAddr};
use clap::builder::FalseyValueParser;
use nkeys::KeyPair;
use percent_encoding::percent_decode_str;

const DEFAULT_SERVER: &str = "nats://localhost:4222";

/// Flags and environment variables for the connection, named as in the official command-line
/// client. They are global: they may stand before or after a subcommand.
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
    #[arg(long, global = true, env = "NATS_CREDS", hide_env_values = true, value_name = "FILE")]
    creds: Option<String>,
    /// File with the seed of an NKEY
    #[arg(long, global = true, env = "NATS_NKEY", hide_env_values = true, value_name = "FILE")]
    nkey: Option<String>,
    /// User name, or a token if no password is given
    #[arg(long, global = true, env = "NATS_USER", hide_env_values = true)]
    user: Option<String>,
    /// Password
    #[arg(long, global = true, env = "NATS_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// Token
    #[arg(long, global = true, env = "NATS_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Certificate authority that signed the server's certificate, if the system does not know it
    #[arg(long, global = true, env = "NATS_CA", hide_env_values = true, value_name = "FILE")]
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
    /// Begin with TLS, for a server with `handshake_first`: it says nothing before
    #[arg(long, global = true, env = "NATS_TLSFIRST", hide_env_values = true, value_parser = FalseyValueParser::new())]
    tlsfirst: bool,
    /// What the subjects begin with on which this program gets replies, if its user may subscribe to
    /// no others; `_INBOX` by default
    #[arg(
        long,
        global = true,
        env = "NATS_INBOX_PREFIX",
        hide_env_values = true,
        value_name = "SUBJECT"
    )]
    inbox_prefix: Option<String>,
}

impl NatsArgs {
    /// The server addresses without user and password, and the login that was in them. The client
    /// library ignores a login in an address, and prints it in its debug log.
    pub(crate) fn servers(&self) -> Result<(Vec<ServerAddr>, Option<Login>)> {
        let mut urls: Vec<_> = self.server.iter().map(|url| url.trim()).collect();
        urls.retain(|url| !url.is_empty());
        if self.server == [""] {
            urls.push(DEFAULT_SERVER); // NATS_URL is set and empty
        }
        ensure!(!urls.is_empty(), "no server given; name one with --server nats://HOST:PORT");
        let parsed = urls.into_iter().map(parse).collect::<Result<Vec<_>>>()?;
        let (servers, logins): (_, Vec<_>) = parsed.into_iter().unzip();
        Ok((servers, logins.into_iter().flatten().next()))
    }

    /// The credentials and certificates as options of the client library.
    pub(crate) fn options(&self, login: Option<Login>) -> Result<ConnectOptions> {
        let mut options = match given(self.creds.as_ref()) {
            Some(path) => credentials(path)?,
            None => ConnectOptions::new(),
        };
        let user = || Some(Login { user: given(self.user.as_ref())?, password: None });
        if let Some(Login { user, password }) = login.or_else(user) {
            options = match password.or(given(self.password.as_ref())) {
                Some(password) => options.user_and_password(user, password),
                None => options.token(user),
            };
        }
        if let Some(token) = given(self.token.as_ref()) {
            options = options.token(token);
        }
        if let Some(path) = given(self.nkey.as_ref()) {
            let seed = read("--nkey", &path)?;
            let seed = seed.split_whitespace().find(|word| word.starts_with("SU"));
            let seed = seed.with_context(|| format!("--nkey {path}: holds no user seed (SU…)"))?;
            options = options.nkey(seed.to_owned());
        }
        if let Some(path) = given(self.tlsca.as_ref()) {
            read("--tlsca", &path)?;
            options = options.add_root_certificates(path.into());
        }
        if let (Some(cert), Some(key)) = (given(self.tlscert.as_ref()), given(self.tlskey.as_ref()))
        {
            read("--tlscert", &cert)?;
            read("--tlskey", &key)?;
            options = options.add_client_certificate(cert.into(), key.into());
        }
        if self.tlsfirst {
            options = options.tls_first();
        }
        if let Some(prefix) = given(self.inbox_prefix.as_ref()) {
            let is_token = |token: &str| {
                !token.is_empty()
                    && !token.contains(|c: char| c.is_whitespace() || "*>".contains(c))
            };
            ensure!(
                prefix.split('.').all(is_token),
                "--inbox-prefix {prefix:?} is no subject; expected one like _INBOX.me"
            );
            options = options.custom_inbox_prefix(prefix);
        }
        Ok(options)
    }
}

/// Reads the credentials file for each connection: a file that has expired can be replaced while the
/// program runs.
fn credentials(path: String) -> Result<ConnectOptions> {
    read("--creds", &path)?;
    let malformed = format!("--creds {path}: not a NATS credentials file");
    // The library's error can hold a part of the file.
    let user = move || parse_credentials(&fs::read_to_string(&path).ok()?);
    user().context(malformed.clone())?;
    Ok(ConnectOptions::with_auth_callback(move |nonce| {
        let auth = user().context(malformed.clone()).and_then(|(jwt, key)| {
            let mut auth = Auth::new();
            (auth.jwt, auth.signature) = (Some(jwt), Some(key.sign(&nonce)?));
            Ok(auth)
        });
        std::future::ready(auth.map_err(AuthError::new))
    }))
}

/// The JWT and the key of a credentials file: each is the line after one that begins with `-----BEGIN`.
fn parse_credentials(text: &str) -> Option<(String, KeyPair)> {
    let mut blocks = text.split("-----BEGIN").skip(1).map(|block| block.lines().nth(1));
    let (jwt, seed) = (blocks.next()??, blocks.next()??);
    Some((jwt.trim().to_owned(), KeyPair::from_seed(seed.trim()).ok()?))
}

/// Treats an environment variable that is set and empty as not set.
fn given(text: Option<&String>) -> Option<String> {
    text.cloned().filter(|text| !text.is_empty())
}

/// A user and a password. A user without a password is a token.
pub(crate) struct Login {
    user: String,
    password: Option<String>,
}

/// Splits an address from its login. Errors do not repeat the address: it may hold a password.
fn parse(text: &str) -> Result<(ServerAddr, Option<Login>)> {
    const EXPECTED: &str = "expected nats://HOST:PORT or tls://HOST:PORT";
    let malformed = |why: &str| anyhow!("malformed server URL: {why}; {EXPECTED}");
    let address: ServerAddr = text.parse().map_err(|error: std::io::Error| {
        malformed(error.to_string().trim_start_matches("NATS server URL is invalid: "))
    })?;
    ensure!(matches!(address.scheme(), "nats" | "tls"), malformed("neither nats:// nor tls://"));
    ensure!(!address.host().is_empty(), malformed("empty host"));
    let decode = |text: &str| {
        let text = percent_decode_str(text).decode_utf8().map(String::from);
        text.map_err(|_| malformed("user or password is not UTF-8"))
    };
    let password = address.password().map(decode).transpose()?;
    let user = address.username().map(decode).transpose()?;
    let login = user.map(|user| Login { user, password });
    let mut plain = address.into_inner();
    let cleared = plain.set_username("").and_then(|()| plain.set_password(None));
    cleared.map_err(|()| malformed("no host"))?;
    Ok((ServerAddr::from_url(plain)?, login))
}

/// The address with its port, for messages.
pub(crate) fn url(address: &ServerAddr) -> String {
    let (scheme, host, port) = (address.scheme(), address.host(), address.port());
    if host.contains(':') {
        format!("{scheme}://[{host}]:{port}")
    } else {
        format!("{scheme}://{host}:{port}")
    }
}

fn read(flag: &str, path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {flag} {path}"))
}
