//! A server with users, lists and TLS, and the programs that connect to it.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_nats::{Client, ConnectOptions, Event};
use futures::StreamExt;
use secured::access::{ACCOUNTS, ALL, User, users};
use secured::configuration::Entry;
use secured::{Credentials, Form, Secured, Stage, Taken, Terms, environment, secret_file};
use tempfile::TempDir;
use testkit::{Certificates, Ended, Ports, Program, Server};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

/// Longer than a program needs that lacks nothing, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A server with its users.
pub struct Playground {
    pub server: Server,
    folder: TempDir,
    users: Users,
}

/// The keys of the users.
enum Users {
    /// In the server's configuration.
    Configured(Secured),
    /// In JWTs.
    Vouched(Box<Credentials>),
}

impl Playground {
    pub fn start(stage: Stage) -> Result<Self> {
        Self::with(stage, None, "")
    }

    /// Without an entry of a list, and with more configuration.
    pub fn with(stage: Stage, without: Option<Entry>, more: &str) -> Result<Self> {
        Self::configured(stage, without, more, Ok)
    }

    /// With other limits, or whatever `change` makes of the accounts.
    pub fn changed(change: impl Fn(String) -> Result<String>) -> Result<Self> {
        Self::configured(Stage::Accounts, None, "", change)
    }

    /// In which math-server may answer each request, to whatever subject it names. (It is in many
    /// examples: `allow_responses`.)
    pub fn with_responses(stage: Stage) -> Result<Self> {
        Self::configured(stage, None, "", |accounts| {
            let (before, after) = accounts.split_once("# math-server").context("no math-server")?;
            let (list, rest) = after.split_once("subscribe").context("no list")?;
            let login = list.split("permissions").next().unwrap_or_default();
            let responses = "publish { deny: \">\" }, allow_responses: true";
            Ok(format!("{before}# math-server{login}permissions {{ {responses}\nsubscribe{rest}"))
        })
    }

    fn configured(
        stage: Stage,
        without: Option<Entry>,
        more: &str,
        change: impl Fn(String) -> Result<String>,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let secured = Secured::create(folder.path())?;
        let mut accounts = change(secured.accounts(stage, without)?)?;
        for account in ACCOUNTS {
            // In each account one more user, who may do everything in it.
            let bystander = format!("users: [\n{{ user: {}, password: secret }}\n", account.name);
            let name = if stage == Stage::Accounts { account.name } else { ALL.name };
            let begin = format!("  {name} {{");
            let (before, after) = accounts.split_once(&begin).context("no such account")?;
            let after = after.replacen("users: [", &bystander, 1);
            accounts = format!("{before}{begin}{after}");
        }
        let tls = secured.certificates().server_config(false);
        let options = Server::options().tls(&tls).mqtt_tls(&tls).config(&accounts).config(more);
        Ok(Self { server: options.start()?.quiet(), folder, users: Users::Configured(secured) })
    }

    /// With the decentralized form.
    pub fn with_credentials() -> Result<Self> {
        Self::with_taken(None)
    }

    /// The same; an account also imports what was exported to another one.
    pub fn with_taken(taken: Option<Taken>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let credentials = Credentials::create(folder.path())?;
        let tls = credentials.certificates().server_config(false);
        let operator = credentials.operator_with(taken)?;
        let options = Server::options().tls(&tls).mqtt_tls(&tls).config(&operator);
        Ok(Self {
            server: options.start()?.quiet(),
            folder,
            users: Users::Vouched(credentials.into()),
        })
    }

    /// Replaces the credentials of a user.
    pub fn vouch(&self, user: &str, terms: Terms) -> Result<()> {
        match &self.users {
            Users::Configured(_) => bail!("there are no credentials"),
            Users::Vouched(credentials) => credentials.vouch(user, terms),
        }
    }

    fn form(&self) -> Form {
        match self.users {
            Users::Configured(_) => Form::Configuration,
            Users::Vouched(_) => Form::Jwt,
        }
    }

    fn certificates(&self) -> &Certificates {
        match &self.users {
            Users::Configured(secured) => secured.certificates(),
            Users::Vouched(credentials) => credentials.certificates(),
        }
    }

    fn ports(&self) -> Ports {
        Ports { nats: self.server.port(), mqtt: self.server.mqtt_port(), monitoring: 0 }
    }

    /// A program, as the user of its name.
    pub fn command(&self, name: &str, args: &str) -> Result<Command> {
        let name = if name == "sensor" { "sensor-1" } else { name };
        let (_, user) = users().find(|(_, user)| user.name == name).context("no such user")?;
        self.command_of(user, testkit::program(program(user)), args)
    }

    /// An example of this crate, as a user.
    pub fn example(&self, name: &str, user: &str, args: &str) -> Result<Program> {
        let (_, user) = users().find(|(_, it)| it.name == user).context("no such user")?;
        Program::spawn(&mut self.command_of(user, testkit::example(name), args)?)
    }

    fn command_of(&self, user: &User, path: PathBuf, args: &str) -> Result<Command> {
        ensure!(path.exists(), "{} is not built: cargo build --workspace", path.display());
        let mut command = testkit::isolated(path);
        command.args(args.split_whitespace()).current_dir(self.folder.path());
        command.envs(environment(self.folder.path(), user, self.form(), self.ports())?);
        Ok(command)
    }

    /// Whether nats-server has denied a subject that begins so. Its log takes a moment.
    pub fn has_denied(&self, subject: &str) -> bool {
        let subject = format!("Subject \"{subject}");
        let is_denied = |line: &String| line.contains("Violation") && line.contains(&subject);
        let end = Instant::now() + PATIENCE;
        while !self.server.log().iter().any(is_denied) {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    /// A program that runs on.
    pub fn start_program(&self, name: &str, args: &str, ready: &str) -> Result<Program> {
        let program = Program::spawn(&mut self.command(name, args)?)?.quiet();
        let mut program = program.timeout(PATIENCE);
        program.expect(ready)?;
        Ok(program)
    }

    /// Runs a program to its end, which must be a good one.
    pub fn run(&self, name: &str, args: &str) -> Result<Ended> {
        let program = Program::spawn(&mut self.command(name, args)?)?.quiet();
        let ended = program.timeout(PATIENCE).wait()?;
        ensure!(ended.success(), "{name} {args}: {ended:?}");
        Ok(ended)
    }

    /// A client with the rights of a user, and what nats-server denies it.
    pub async fn client(&self, user: &User) -> Result<(Client, UnboundedReceiver<String>)> {
        let secret = secret_file(user, self.form());
        let secret = std::fs::read_to_string(self.folder.path().join(secret))?;
        let (denied, denials) = unbounded_channel();
        let options = match self.form() {
            Form::Configuration => ConnectOptions::with_nkey(secret),
            Form::Jwt => ConnectOptions::with_credentials(&secret)?,
        };
        let options = options
            .add_root_certificates(self.certificates().authority())
            .event_callback(move |event| {
                if let Event::ServerError(error) = event {
                    let _ = denied.send(error.to_string());
                }
                std::future::ready(())
            });
        Ok((options.connect(format!("tls://localhost:{}", self.server.port())).await?, denials))
    }

    /// Runs a NATS program with the login of the device.
    pub fn as_device(&self, program: &str) -> Result<Ended> {
        let mut command = self.command(program, "")?;
        let password = std::fs::read_to_string(self.folder.path().join("sensor-1.password"))?;
        command.env_remove("NATS_NKEY").env("NATS_USER", "sensor-1").env("NATS_PASSWORD", password);
        Program::spawn(&mut command)?.wait()
    }

    /// A client that may do everything in an account.
    pub async fn bystander(&self, account: &str) -> Result<Client> {
        let options = match &self.users {
            Users::Configured(_) => {
                ConnectOptions::with_user_and_password(account.into(), "secret".into())
            }
            Users::Vouched(credentials) => {
                ConnectOptions::with_credentials(&credentials.admin(account)?)?
            }
        };
        let options = options.add_root_certificates(self.certificates().authority());
        Ok(options.connect(format!("tls://localhost:{}", self.server.port())).await?)
    }
}

/// The program of a user.
pub fn program(user: &User) -> &'static str {
    if user.name == "sensor-1" { "sensor" } else { user.name }
}

/// Stops a program, which must end well.
pub fn stop(mut program: Program) -> Result<Ended> {
    let ended = program.stop()?;
    ensure!(ended.success(), "{ended:?}");
    Ok(ended)
}

/// Waits until nats-server has handled everything that a client sent before.
pub async fn handled(client: &Client) -> Result<()> {
    // Its inboxes may be watched.
    let echo = format!("echo.{}", client.new_inbox());
    let mut echoes = client.subscribe(echo.clone()).await?;
    client.publish(echo, "".into()).await?;
    timeout(PATIENCE, echoes.next()).await?.context("the connection was closed")?;
    Ok(())
}
