//! Throws the switch `site_maintenance`, which every `config-app` follows.
//!
//! ```sh
//! cargo run -p kv --bin config-app                # terminal 1
//! cargo run -p kv --bin config-admin              # terminal 2: on and off again, five times
//! cargo run -p kv --bin config-admin -- set true  # on
//! cargo run -p kv --bin config-admin -- history   # who changed what, and when
//! ```

use std::io::{Write, stdout};
use std::process::{self, ExitCode};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use async_nats::connection::State;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::context::{Context, ContextBuilder};
use async_nats::jetstream::kv::{Config, Operation, Store};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::StorageType;
use async_nats::{Client, Error};
use clap::{ArgAction, Parser, Subcommand};
use futures::StreamExt;
use kv::{BUCKET, Failure, KEY};
use tokio::time::{sleep, timeout};

/// How long JetStream may take to answer. An answer that went down with its server never comes.
const ANSWER: Duration = Duration::from_secs(1);
/// Before trying again.
const PAUSE: Duration = Duration::from_millis(100);
/// How long to go on trying.
const PATIENCE: Duration = Duration::from_secs(30);

/// Turns `site_maintenance` on and off again.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// How many times to turn it over and back
    #[arg(long, default_value_t = 5)]
    cycles: u64,
    /// How long to leave it each way
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Print no line for each change
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    nats: common::NatsArgs,
}

#[derive(Subcommand)]
enum Action {
    /// Turn it on or off, whatever it was
    Set {
        #[arg(action = ArgAction::Set, value_name = "true|false")]
        value: bool,
    },
    /// Print the changes that the bucket still knows, oldest first
    History,
}

fn main() -> ExitCode {
    common::run(config_admin(Args::parse()))
}

// There is no last flush: whatever is printed as written, the server has acknowledged.
async fn config_admin(args: Args) -> Result<()> {
    let client = args.nats.connect("config-admin").await?;
    let jetstream = ContextBuilder::new().timeout(ANSWER).build(client.clone());
    let admin = Admin {
        args,
        client,
        jetstream,
    };
    match admin.args.action {
        Some(Action::Set { value }) => {
            let revision = admin.set(value).await?;
            report(revision, value)
        }
        Some(Action::History) => admin.history().await,
        None => admin.cycle().await,
    }
}

fn report(revision: u64, on: bool) -> Result<()> {
    let word = if on { "on" } else { "off" };
    Ok(writeln!(stdout(), "#{revision} {KEY} is {word}")?)
}

struct Admin {
    args: Args,
    client: Client,
    jetstream: Context,
}

impl Admin {
    /// Over and back is one cycle, so that a run leaves the site as it found it: also a run that
    /// is told to stop, which turns back at once.
    async fn cycle(&self) -> Result<()> {
        let args = &self.args;
        let started = Instant::now();
        let mut last = started;
        let (mut cycles, mut stop) = (0, false);
        while cycles < args.cycles && !stop {
            cycles += 1;
            for is_back in [false, true] {
                let (revision, on) = self.toggle().await?;
                last = Instant::now();
                if !args.quiet {
                    report(revision, on)?;
                }
                if !is_back || cycles < args.cycles {
                    stop = timeout(args.interval, common::shutdown()).await.is_ok();
                }
            }
        }
        let summary = common::summary(cycles, "cycles", last - started);
        Ok(writeln!(stdout(), "{summary}")?)
    }

    /// Turns it to what it is not. Between reading and writing somebody else may write, and two
    /// who both read "off" and write "on" have turned it once instead of twice. So we say which
    /// revision we have read, and the server refuses when it is no longer the last one.
    async fn toggle(&self) -> Result<(u64, bool)> {
        loop {
            let entry = self
                .retry(async |bucket| Ok(bucket.entry(KEY).await?))
                .await;
            let entry = entry.map_err(|error| self.explain(&*error))?;
            // Revision 0 stands for no entry at all.
            let (revision, on) = entry.map_or((0, false), |entry| {
                (entry.revision, kv::read(&entry) == Ok(true))
            });
            match self.write(!on, Some(revision)).await {
                Ok(revision) => return Ok((revision, !on)),
                Err(error) if kv::failure(&*error) == Failure::Overtaken => {
                    tracing::warn!("somebody else wrote after #{revision}: looking again");
                }
                Err(error) => return Err(self.explain(&*error)),
            }
        }
    }

    /// Turns it on or off, whatever it was. The last one to do so is right, so nothing is compared.
    async fn set(&self, on: bool) -> Result<u64> {
        let written = self.write(on, None).await;
        written.map_err(|error| self.explain(&*error))
    }

    /// Writes, and returns the revision that the server gave it. `bucket.put` and `bucket.update`
    /// do the same, without an id.
    async fn write(&self, on: bool, after: Option<u64>) -> Result<u64, Error> {
        let subject = format!("$KV.{BUCKET}.{KEY}");
        // When the acknowledgement is lost, the write may be stored or not. So each attempt has
        // the same id: for one it has stored, the server answers with the revision it has, and
        // stores nothing.
        let id = id();
        self.retry(async |bucket| {
            let mut write = PublishMessage::build()
                .payload(on.to_string().into())
                .message_id(&id);
            if let Some(revision) = after {
                write = write.expected_last_subject_sequence(revision);
            }
            let ack = self.jetstream.send_publish(subject.clone(), write).await?;
            let error = match (ack.await, after) {
                (Ok(ack), _) => return Ok(ack.sequence),
                (Err(error), Some(_)) if kv::failure(&error) == Failure::Overtaken => error,
                (Err(error), _) => return Err(error.into()),
            };
            // It compares before it looks at ids: the write that overtook us may be our own.
            let next = after.unwrap_or_default() + 1;
            let first = bucket
                .stream
                .get_first_raw_message_by_subject(&subject, next);
            match first.await {
                Ok(first)
                    if first
                        .headers
                        .get(NATS_MESSAGE_ID)
                        .is_some_and(|own| own.as_str() == id) =>
                {
                    Ok(first.sequence)
                }
                Err(silence) if kv::failure(&silence) == Failure::Passing => Err(silence.into()),
                _ => Err(error.into()),
            }
        })
        .await
    }

    /// Prints what the bucket still knows: its last 64 changes, or as many as it was made for. It
    /// notes what was written and when, but not by whom; our own ids say that.
    async fn history(&self) -> Result<()> {
        let lines = async {
            let bucket = self.jetstream.get_key_value(BUCKET).await?;
            let mut changes = bucket.history(KEY).await?;
            let mut lines = Vec::new();
            while let Some(change) = changes.next().await.transpose()? {
                let what = match change.operation {
                    Operation::Put => {
                        kv::read(&change).map_or_else(|_| kv::text(&change), |on| on.to_string())
                    }
                    Operation::Delete => "deleted".into(),
                    Operation::Purge => "purged".into(),
                };
                let when = humantime::format_rfc3339_millis(change.created.into());
                let message = bucket.stream.get_raw_message(change.revision).await?;
                let who = message.headers.get(NATS_MESSAGE_ID);
                let who = who.map_or("somebody", |id| id.as_str());
                lines.push(format!("#{} {when} {what} by {who}", change.revision));
            }
            Ok::<_, Error>(lines)
        };
        let lines = match timeout(PATIENCE, lines).await {
            Ok(lines) => lines,
            Err(elapsed) => Err(elapsed.into()),
        };
        for line in lines.map_err(|error| self.explain(&*error))? {
            writeln!(stdout(), "{line}")?;
        }
        Ok(())
    }

    /// Calls with the open bucket, again and again while nobody answers.
    async fn retry<T>(&self, call: impl AsyncFn(Store) -> Result<T, Error>) -> Result<T, Error> {
        let started = Instant::now();
        loop {
            let result = match self.open().await {
                Ok(bucket) => call(bucket).await,
                Err(error) => Err(error),
            };
            match result {
                Err(error)
                    if matches!(kv::failure(&*error), Failure::Missing | Failure::Passing)
                        && started.elapsed() < PATIENCE => {}
                result => return result,
            }
            sleep(PAUSE).await;
        }
    }

    /// Opens the bucket, whatever its settings, or makes it.
    async fn open(&self) -> Result<Store, Error> {
        // Without a connection a request would only wait in the client's buffer.
        let connected = async {
            while self.client.connection_state() != State::Connected {
                sleep(PAUSE).await;
            }
        };
        timeout(PATIENCE, connected)
            .await
            .map_err(|_| format!("no connection for {PATIENCE:?}"))?;
        match self.jetstream.get_key_value(BUCKET).await {
            Err(error) if kv::failure(&error) == Failure::Missing => {}
            opened => return Ok(opened?),
        }
        let config = Config {
            bucket: BUCKET.into(),
            // In memory it would be gone with the server, and the switch back to nothing.
            storage: StorageType::File,
            // The most there is: who changed what, and no change skipped by a watch that lags.
            history: 64,
            ..Config::default()
        };
        match self.jetstream.create_key_value(config).await {
            Ok(bucket) => {
                tracing::info!("made the bucket {BUCKET}");
                Ok(bucket)
            }
            // Somebody else may have been faster, and with other settings: good enough.
            Err(error) => match self.jetstream.get_key_value(BUCKET).await {
                Ok(bucket) => Ok(bucket),
                Err(_) => Err(error.into()),
            },
        }
    }

    fn explain(&self, error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
        kv::explain("cannot use the bucket", &self.args.nats, error)
    }
}

/// Who writes, and nobody's else: user, process, time. The bucket keeps it with the value.
fn id() -> String {
    let user = std::env::var("USER").unwrap_or_default();
    let user: String = user
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(32)
        .collect();
    let user = if user.is_empty() { "unknown" } else { &user };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("{user}-{}-{}", process::id(), now.as_nanos())
}
