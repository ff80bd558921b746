//! Follows the switch `site_maintenance`: its value now, then every change, for ever.
//!
//! ```sh
//! cargo run -p kv --bin config-app                  # terminal 1, and as many more as you like
//! cargo run -p kv --bin config-admin                # terminal 2: on, off, on, off …
//! cargo run -p kv --bin config-admin -- set true    # … or as you say
//! ```

use std::io::{Write, stdout};
use std::mem;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::context::{Context, ContextBuilder};
use async_nats::jetstream::kv::{Store, Watch};
use clap::Parser;
use futures::StreamExt;
use kv::{BUCKET, Failure, KEY, PAUSE, Place};
use tokio::time::sleep;

/// How long JetStream may take to answer. An answer that went down with its server never comes,
/// and the library would wait 10 s for it.
const ANSWER: Duration = Duration::from_secs(1);
/// How often to ask whether the bucket is still the one that is watched.
const CHECK: Duration = Duration::from_secs(2);

/// Prints the value of `site_maintenance` and every change of it.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Stop after this many values, the first included; what is neither true nor false does not count
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print no line for each value
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    nats: common::NatsArgs,
}

fn main() -> ExitCode {
    common::run(config_app(common::parse()))
}

async fn config_app(args: Args) -> Result<()> {
    let client = args.nats.connect("config-app").await?;
    // Dropped where it stands: whoever only listens leaves nothing undone, and has nothing to
    // flush. (The server removes a watch that nobody listens to after half a minute.)
    tokio::select! {
        result = follow(&client, &args) => result,
        () = common::shutdown() => Ok(()),
    }
}

async fn follow(client: &Client, args: &Args) -> Result<()> {
    let jetstream = ContextBuilder::new().timeout(ANSWER).build(client.clone());
    let mut out = stdout();
    let mut place = Place::default();
    let (mut values, mut started) = (0, None);
    let (mut watched, mut waits, mut told) = (None, false, false);
    loop {
        kv::connected(client).await;
        let connects = client.statistics().connects.load(Ordering::Relaxed);
        let (bucket, mut entries) = match watch(&jetstream, &mut place).await {
            Ok(watch) => watch,
            Err(error) => {
                match (kv::failure(&*error), watched.is_none()) {
                    (Failure::Missing, true) if !mem::replace(&mut waits, true) => {
                        writeln!(out, "waiting for the bucket {BUCKET}: {KEY} is off")?;
                        place.before_the_bucket();
                    }
                    (Failure::Missing, true) => {}
                    (Failure::Lasting, true) => {
                        return Err(kv::explain("cannot watch the bucket", &args.nats, error));
                    }
                    _ if !mem::replace(&mut told, true) => {
                        tracing::warn!("cannot watch the bucket {BUCKET}, trying on: {error}");
                    }
                    _ => {}
                }
                sleep(PAUSE).await;
                continue;
            }
        };
        told = false;
        // A watch shows what is there, and nothing where nothing is. Once said is enough.
        let created = Some(bucket.stream.cached_info().created);
        let is_news = mem::replace(&mut watched, created) != created && !mem::take(&mut waits);
        if is_news && bucket.entry(KEY).await.is_ok_and(|entry| entry.is_none()) {
            writeln!(out, "watching, no value yet: {KEY} is off")?;
        }

        let mut end = pin!(end_of_watch(client, connects, &bucket));
        loop {
            let entry = tokio::select! {
                biased; // what has come is printed first
                entry = entries.next() => entry,
                why = &mut end => {
                    tracing::debug!("{why}: watching again");
                    break;
                }
            };
            // After an error the watch may be silent for ever. A new one begins where it ended.
            let Some(Ok(entry)) = entry else {
                sleep(PAUSE).await;
                break;
            };
            place.pass(entry.revision);
            let state = kv::read(&entry);
            let word = kv::word(state == Ok(true));
            if !args.quiet {
                writeln!(out, "#{} {KEY} is {word}", entry.revision)?;
            }
            if let Err(why) = state {
                tracing::warn!("#{} {KEY} {why}: it is off", entry.revision);
            }
            values += u64::from(kv::counts(&entry));
            let started = started.get_or_insert_with(Instant::now);
            if Some(values) == args.limit {
                let summary = common::summary(values, "values", started.elapsed());
                writeln!(out, "{summary}, {KEY} is {word}")?;
                return Ok(());
            }
        }
    }
}

/// Watches from that place on.
async fn watch(jetstream: &Context, place: &mut Place) -> Result<(Store, Watch)> {
    let bucket = jetstream.get_key_value(BUCKET).await?;
    // A watch counts revisions, and another bucket counts its own.
    let info = bucket.stream.cached_info();
    let watch = match place.enter(info.created, info.state.last_sequence) {
        // The last value, and all that come after it: nothing can slip in between.
        None => bucket.watch_with_history(KEY).await?,
        Some(revision) => bucket.watch_from_revision(KEY, revision).await?,
    };
    Ok((bucket, watch))
}

/// Returns when a watch has to be made anew, though it says nothing of it, and why.
async fn end_of_watch(client: &Client, connects: u64, bucket: &Store) -> &'static str {
    let info = bucket.stream.cached_info();
    let mut place = Place::default();
    place.enter(info.created, info.state.last_sequence);
    let mut asked = Instant::now();
    loop {
        // After an outage the library's watch comes back by itself, but takes up to 10 s; and
        // if meanwhile the bucket was made anew, it goes on in the middle of it.
        sleep(PAUSE).await;
        if client.statistics().connects.load(Ordering::Relaxed) != connects
            || client.connection_state() != State::Connected
        {
            return "the connection was lost";
        }
        // A bucket can go while the connection stays, and the server tells no watcher.
        if asked.elapsed() < CHECK {
            continue;
        }
        match bucket.stream.get_info().await {
            Ok(info) if place.is_here(info.created, info.state.last_sequence) => {}
            Ok(_) => return "the bucket is another one",
            Err(error) if kv::failure(&error) == Failure::Missing => return "the bucket is gone",
            Err(_) => {} // no answer says nothing about the bucket
        }
        asked = Instant::now();
    }
}
