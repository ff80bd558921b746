//! The files of a playground that is not open: certificates, keys, configurations.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nkeys::KeyPair;
use testkit::{Certificates, Ports, Server, write_secret};

use crate::access::{Protocol, User, inbox_prefix, users};
use crate::configuration::{Entry, Stage, accounts};

/// The part of the configuration that is about the server. It is written last: if it is there, so is
/// everything else.
pub const SERVER: &str = "server.conf";

/// How much work it is to compare a password. The least there is, as this password is drawn at random
/// (26 characters of 5 bits) and cannot be guessed. A password that a person has chosen needs 12.
const COST: u32 = 4;

/// How nats-server knows users and accounts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// They are in its configuration.
    Configuration,
    /// An operator vouches for accounts, and an account for its users, in JWTs.
    Jwt,
}

/// The folder with all files. Only this user may read those with secrets.
#[derive(Debug)]
pub struct Secured {
    folder: PathBuf,
    certificates: Certificates,
    logins: BTreeMap<&'static str, String>,
}

impl Secured {
    /// Makes the certificates, and a key or password for each user.
    ///
    /// # Errors
    ///
    /// If the files cannot be written.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let certificates = Certificates::in_folder(folder)?;
        let mut logins = BTreeMap::new();
        for (_, user) in users() {
            let (secret, login) = match user.protocol {
                Protocol::Nats => {
                    let key = KeyPair::new_user();
                    (key.seed()?, format!("nkey: {}", key.public_key()))
                }
                Protocol::Mqtt => {
                    let password = KeyPair::new_user().seed()?.split_off(32);
                    // As in `nkey`, the configuration can only check the secret.
                    let hash = bcrypt::hash_with_result(&password, COST)?;
                    let login = format!(
                        "user: \"{}\", password: \"{}\", allowed_connection_types: [\"MQTT\"]",
                        user.name,
                        hash.format_for_version(bcrypt::Version::TwoA)
                    );
                    (password, login)
                }
            };
            write_secret(&folder.join(secret_file(user, Form::Configuration)), &secret)?;
            logins.insert(user.name, login);
        }
        Ok(Self { folder: folder.to_owned(), certificates, logins })
    }

    /// Writes nats-server's configuration for each stage of the lesson.
    ///
    /// # Errors
    ///
    /// If the files cannot be written.
    pub fn configure(&self, ports: Ports) -> Result<()> {
        for stage in [Stage::Open, Stage::Lists, Stage::Accounts] {
            let accounts = self.accounts(stage, None)?;
            let text = format!("include \"server.conf\"\n\n{accounts}");
            write_secret(&self.folder.join(stage.file()), &text)?;
        }
        write_server(&self.folder, &self.certificates, ports)
    }

    /// The `accounts` block of a configuration.
    ///
    /// # Errors
    ///
    /// If a user has no key.
    pub fn accounts(&self, stage: Stage, without: Option<Entry>) -> Result<String> {
        let login = |user: &User| {
            let login = self.logins.get(user.name).cloned();
            login.with_context(|| format!("no key of {}", user.name))
        };
        accounts(stage, login, without)
    }

    /// The certificates.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }
}

/// Starts a private server at a stage of the lesson. Its folder has the files where the README says,
/// in `target/secure`, and it reads the accounts from there.
///
/// # Errors
///
/// If the files cannot be written, or the server does not start.
pub fn start(stage: Stage) -> Result<Server> {
    const FILES: &str = "target/secure";
    let folder = tempfile::Builder::new().prefix("nats-server-").tempdir()?;
    let files = folder.path().join(FILES);
    let secured = Secured::create(&files)?;
    write_secret(&files.join(stage.file()), &secured.accounts(stage, None)?)?;
    let tls = secured.certificates.server_config(false);
    let include = format!("include \"{FILES}/{}\"", stage.file());
    Server::options().tls(&tls).mqtt_tls(&tls).config(&include).temporary(folder).start()
}

/// Writes the part of a configuration that is about the server: ports, TLS, JetStream.
pub(crate) fn write_server(folder: &Path, certificates: &Certificates, ports: Ports) -> Result<()> {
    let Ports { nats, mqtt, monitoring } = ports;
    let tls = certificates.server_config(false);
    let server = format!(
        "# Included by the other configuration in this folder.\nserver_name: playground\n\
         listen: \"127.0.0.1:{nats}\"\nhttps: \"127.0.0.1:{monitoring}\"\n\
         {tls}jetstream: enabled\nmqtt {{\n  listen: \"127.0.0.1:{mqtt}\"\n  {tls}}}\n"
    );
    write_secret(&folder.join(SERVER), &server)
}

/// The environment variables with which a user's program connects to the server on these ports.
///
/// # Errors
///
/// If its password cannot be read.
pub fn environment(
    folder: &Path,
    user: &User,
    form: Form,
    ports: Ports,
) -> Result<Vec<(&'static str, String)>> {
    let ca = folder.join("ca.pem").display().to_string();
    let secret = folder.join(secret_file(user, form));
    let name = if form == Form::Jwt { "NATS_CREDS" } else { "NATS_NKEY" };
    Ok(match user.protocol {
        Protocol::Nats => vec![
            ("NATS_URL", format!("tls://localhost:{}", ports.nats)),
            ("NATS_CA", ca),
            (name, secret.display().to_string()),
            ("NATS_INBOX_PREFIX", inbox_prefix(user.name)),
        ],
        Protocol::Mqtt => vec![
            ("MQTT_URL", format!("mqtts://localhost:{}", ports.mqtt)),
            ("MQTT_CA", ca),
            ("MQTT_USER", user.name.into()),
            ("MQTT_PASSWORD", fs::read_to_string(&secret).context("no password")?),
        ],
    })
}

/// The name of the file with a user's seed, credentials or password.
#[must_use]
pub fn secret_file(user: &User, form: Form) -> String {
    let extension = match (user.protocol, form) {
        (Protocol::Nats, Form::Configuration) => "nk",
        (Protocol::Nats, Form::Jwt) => "creds",
        (Protocol::Mqtt, _) => "password",
    };
    format!("{}.{extension}", user.name)
}
