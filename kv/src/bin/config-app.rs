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
use async_nats::connection::State;
use async_nats::datetime::DateTime;
use async_nats::jetstream::context::{Context, ContextBuilder};
use async_nats::jetstream::kv::{Operation, Store, Watch};
use async_nats::{Client, Error};
use clap::Parser;
use futures::StreamExt;
use kv::{BUCKET, Failure, KEY};
use tokio::time::sleep;

/// How long JetStream may take to answer. An answer that went down with its server never comes,
/// and the library would wait 10 s for it.
const ANSWER: Duration = Duration::from_secs(1);
/// Before looking again whether something is there that was not.
const PAUSE: Duration = Duration::from_millis(100);
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
    common::run(config_app(Args::parse()))
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
        // Without a connection a request would only wait in the client's buffer.
        while client.connection_state() != State::Connected {
            sleep(PAUSE).await;
        }
        let connects = client.statistics().connects.load(Ordering::Relaxed);

        let (bucket, mut entries) = match watch(&jetstream, &mut place).await {
            Ok(watch) => watch,
            Err(error) => {
                let at_the_start = watched.is_none();
                match kv::failure(&*error) {
                    Failure::Missing if at_the_start && !waits => {
                        writeln!(out, "waiting for the bucket {BUCKET}: {KEY} is off")?;
                        // All that is in a bucket made from now on is news.
                        (waits, place.next) = (true, Some(1));
                    }
                    Failure::Lasting if at_the_start => {
                        return Err(kv::explain("cannot watch the bucket", &args.nats, &*error));
                    }
                    Failure::Missing if at_the_start => {}
                    _ if !told => {
                        told = true;
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
        let waited = mem::take(&mut waits);
        let is_new = watched != place.created;
        watched = place.created;
        if is_new && !waited && bucket.entry(KEY).await.is_ok_and(|entry| entry.is_none()) {
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
            place.next = Some(entry.revision + 1);
            let state = kv::read(&entry);
            let word = if state == Ok(true) { "on" } else { "off" };
            if !args.quiet {
                writeln!(out, "#{} {KEY} is {word}", entry.revision)?;
            }
            // A marker is as good as a value; rubbish is not what anybody waits for.
            if let Err(why) = &state {
                tracing::warn!("#{} {KEY} {why}: it is off", entry.revision);
            }
            if state.is_ok() || entry.operation != Operation::Put {
                values += 1;
            }
            let started = started.get_or_insert_with(Instant::now);
            if Some(values) == args.limit {
                let summary = common::summary(values, "values", started.elapsed());
                writeln!(out, "{summary}, {KEY} is {word}")?;
                return Ok(());
            }
        }
    }
}

/// How far we are: which bucket was watched, and which of its revisions is to come next. None at
/// the start, when it counts what the value is, and not how it came about.
#[derive(Default)]
struct Place {
    created: Option<DateTime>,
    next: Option<u64>,
}

/// Watches from that place on.
async fn watch(jetstream: &Context, place: &mut Place) -> Result<(Store, Watch), Error> {
    let bucket = jetstream.get_key_value(BUCKET).await?;

    // Revisions count in one bucket. The watch does not ask in which: in a bucket made anew, which
    // begins with 1, it would wait in silence for the revision after the last one it saw.
    let info = bucket.stream.cached_info();
    let last = place.created.replace(info.created);
    if last.is_some_and(|last| last != info.created) {
        tracing::warn!("the bucket {BUCKET} was made anew: reading it from its beginning");
        place.next = Some(1);
    } else if place.next > Some(info.state.last_sequence + 1) {
        tracing::warn!("the bucket {BUCKET} is older than it was: what it holds now counts");
        place.next = None;
    }

    let watch = match place.next {
        // The last value, and all that come after it: nothing can slip in between.
        None => bucket.watch_with_history(KEY).await?,
        Some(revision) => bucket.watch_from_revision(KEY, revision).await?,
    };
    Ok((bucket, watch))
}

/// Returns when a watch has to be made anew, though it says nothing of it, and why.
async fn end_of_watch(client: &Client, connects: u64, bucket: &Store) -> &'static str {
    let watched = bucket.stream.cached_info();
    let mut last_sequence = watched.state.last_sequence;
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
            Ok(info) if info.created != watched.created => return "the bucket was made anew",
            Ok(info) if info.state.last_sequence < last_sequence => return "the bucket is older",
            Ok(info) => last_sequence = info.state.last_sequence,
            Err(error) if kv::failure(&error) == Failure::Missing => return "the bucket is gone",
            Err(_) => {} // no answer says nothing about the bucket
        }
        asked = Instant::now();
    }
}
