//! Throws the switch `site_maintenance`, which every `config-app` follows.
//!
//! ```sh
//! cargo run -p kv --bin config-app                # terminal 1
//! cargo run -p kv --bin config-admin              # terminal 2: on and off again, five times
//! cargo run -p kv --bin config-admin -- set true  # on
//! cargo run -p kv --bin config-admin -- history   # who changed what, and when
//! ```

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use async_nats::jetstream::kv::{Config, Store};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::StorageType;
use async_nats::jetstream::{Context, ContextBuilder};
use clap::{ArgAction, Parser, Subcommand};
use common::{Failure, Refused};
use futures::StreamExt;
use kv::{ANSWER, BUCKET, KEY, PATIENCE, SUBJECT};
use tokio::time::timeout;

/// Turns `site_maintenance` on and off again.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    #[command(subcommand)]
    action: Option<Action>,
    /// How many times to turn it over and back
    #[arg(long, default_value_t = 5)]
    cycles: u64,
    /// How long to leave it each way
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Print no line for each change
    #[arg(long)]
    quiet: bool,
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
    common::run(administer(common::parse()))
}

// There is no last flush: whatever is printed as written, the server has acknowledged.
async fn administer(args: Args) -> Result<()> {
    let client = args.nats.connect("config-admin").await?;
    let jetstream = ContextBuilder::new().timeout(ANSWER).build(client);
    let done = match args.action {
        Some(Action::Set { value }) => set(&jetstream, value).await,
        Some(Action::History) => history(&jetstream).await,
        None => cycle(&jetstream, &args).await,
    };
    done.with_context(|| format!("cannot use the bucket on {}", args.nats))
}

/// Over and back is one cycle, so that a run leaves the site as it found it: also a run that is
/// told to stop, which turns back at once.
async fn cycle(jetstream: &Context, args: &Args) -> Result<()> {
    let started = Instant::now();
    let mut last = started;
    let (mut cycles, mut stop) = (0, false);
    while cycles < args.cycles && !stop {
        cycles += 1;
        for is_back in [false, true] {
            let (revision, on) = toggle(jetstream).await?;
            last = Instant::now();
            if !args.quiet {
                writeln!(stdout(), "#{revision} {KEY} is {}", kv::word(on))?;
            }
            if !is_back || cycles < args.cycles {
                stop = timeout(args.interval, common::shutdown()).await.is_ok();
            }
        }
    }
    let summary = common::summary(cycles, "cycles", last - started);
    writeln!(stdout(), "{summary}")?;
    Ok(())
}

/// Turns it to what it is not. Between reading and writing somebody else may write, and two who
/// both read "off" and write "on" have turned it once instead of twice. So we say which revision
/// we have read, and the server refuses when it is no longer the last one.
async fn toggle(jetstream: &Context) -> Result<(u64, bool)> {
    loop {
        let read = async || Ok(open(jetstream).await?.entry(KEY).await?);
        let entry = kv::retry(jetstream, read).await?;
        // Revision 0 stands for no entry at all.
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let on = entry.is_some_and(|entry| kv::read(&entry) == Ok(true));
        match write(jetstream, !on, Some(revision)).await {
            Err(error) if kv::is_overtaken(error.as_ref()) => {
                tracing::warn!("somebody else wrote after #{revision}: looking again");
            }
            written => return Ok((written?, !on)),
        }
    }
}

/// Turns it on or off, whatever it was. The last one to do so is right, so nothing is compared.
async fn set(jetstream: &Context, on: bool) -> Result<()> {
    let revision = write(jetstream, on, None).await?;
    writeln!(stdout(), "#{revision} {KEY} is {}", kv::word(on))?;
    Ok(())
}

/// Writes, and returns the revision that the server gave it. `bucket.put` and `bucket.update` do
/// the same, without an id.
async fn write(jetstream: &Context, on: bool, after: Option<u64>) -> Result<u64> {
    // When the acknowledgement is lost, the write may be stored or not. So each attempt has the
    // same id: for one it has stored, the server answers with the revision it has, and stores
    // nothing.
    let id = kv::new_id();
    let attempt = async || {
        let bucket = open(jetstream).await?;
        let mut write = PublishMessage::build()
            .payload(on.to_string().into())
            .message_id(&id);
        if let Some(revision) = after {
            write = write.expected_last_subject_sequence(revision);
        }
        let refusal = match jetstream.send_publish(SUBJECT, write).await?.await {
            Ok(ack) => return Ok(ack.sequence),
            Err(error) if kv::is_overtaken(&error) => error,
            Err(error) => return Err(error.into()),
        };
        // It compares before it looks at ids: the write that overtook us may be our own.
        let next = after.unwrap_or_default() + 1;
        let stream = &bucket.stream;
        match stream.get_first_raw_message_by_subject(SUBJECT, next).await {
            Ok(first) if kv::author(&first.headers) == Some(&id) => Ok(first.sequence),
            Err(silence) if common::failure(&silence) == Failure::Passing => Err(silence.into()),
            _ => Err(refusal.into()),
        }
    };
    kv::retry(jetstream, attempt).await
}

/// Prints what the bucket still knows: its last 64 changes, or as many as it was made for.
async fn history(jetstream: &Context) -> Result<()> {
    let bucket = kv::retry(jetstream, async || {
        match jetstream.get_key_value(BUCKET).await {
            Err(error) if common::failure(&error) == Failure::Missing => bail!(Refused::because(
                format!("there is no bucket {BUCKET}; `config-admin set true` makes it")
            )),
            bucket => Ok(bucket?),
        }
    });
    let bucket = bucket.await?;
    let mut changes = bucket.history(KEY).await?;
    while let Some(change) = timeout(PATIENCE, changes.next()).await?.transpose()? {
        // An entry comes without the headers of its message.
        let message = bucket.stream.get_raw_message(change.revision).await?;
        let line = kv::tell(&change, kv::author(&message.headers));
        writeln!(stdout(), "{line}")?;
    }
    Ok(())
}

/// Opens the bucket, whatever its settings, or makes it.
async fn open(jetstream: &Context) -> Result<Store> {
    match jetstream.get_key_value(BUCKET).await {
        Err(error) if common::failure(&error) == Failure::Missing => {}
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
    match jetstream.create_key_value(config).await {
        Ok(bucket) => {
            tracing::info!("made the bucket {BUCKET}");
            Ok(bucket)
        }
        // Somebody else may have been faster, and with other settings: good enough.
        Err(error) => jetstream.get_key_value(BUCKET).await.or(Err(error.into())),
    }
}
