//! Follows the switch `site_maintenance`: its value now, then every change, for ever.
//!
//! ```sh
//! cargo run -p kv --bin config-app                  # terminal 1, and as many more as you like
//! cargo run -p kv --bin config-admin                # terminal 2: on, off, on, off …
//! cargo run -p kv --bin config-admin -- set true    # … or as you say
//! ```

use std::cell::Cell;
use std::io::{Write, stdout};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::Client;
use async_nats::jetstream::kv::{Store, Watch};
use async_nats::jetstream::{Context, ContextBuilder};
use clap::Parser;
use common::{Failure, Tally};
use futures::StreamExt;
use kv::{ANSWER, BUCKET, KEY, Place};
use tokio::time::sleep;

/// Before it watches again.
const PAUSE: Duration = Duration::from_millis(100);

/// Prints the value of `site_maintenance` and every change of it.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    /// Stop after this many values, the first included; what is neither true nor false does not count
    #[arg(long)]
    limit: Option<u64>,
    /// Print no line for each value
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    // Changes come unasked: a thread has to read on while lines are written.
    common::run_multi_thread(follow_switch(common::parse()))
}

async fn follow_switch(args: Args) -> Result<()> {
    let client = args.nats.connect("config-app").await?;
    let (mut tally, mut is_on) = (Tally::default(), false);
    // Dropped where it stands: whoever only listens leaves nothing undone, and has nothing to
    // flush. (The server removes a watch that nobody listens to after half a minute.)
    tokio::select! {
        biased;
        () = common::shutdown() => {}
        followed = follow(&client, &args, &mut tally, &mut is_on) => followed?,
    }
    if args.limit.is_some() {
        let (summary, word) = (tally.summary("values"), kv::word(is_on));
        writeln!(stdout(), "{summary}, {KEY} is {word}")?;
    }
    Ok(())
}

async fn follow(client: &Client, args: &Args, tally: &mut Tally, is_on: &mut bool) -> Result<()> {
    let jetstream = ContextBuilder::new().timeout(ANSWER).build(client.clone());
    let place = Place::default();
    let mut watched = None;
    while tally.left(args.limit) > 0 {
        let lost = common::lost();
        // At the start it waits for a bucket that is missing, and for nothing else. Later, for
        // whatever becomes of it: it is in the middle of its work.
        let (is_first, told) = (watched.is_none(), Cell::new(false));
        let worth: &[Failure] = if is_first {
            &[Failure::Passing, Failure::Missing]
        } else {
            &[
                Failure::Passing,
                Failure::Missing,
                Failure::Off,
                Failure::Lasting,
            ]
        };
        let open = async || {
            let opened = watch(&jetstream, &place).await;
            if let Err(error) = &opened
                && !told.get()
            {
                match common::failure(error.as_ref()) {
                    Failure::Missing if is_first => {
                        told.set(true);
                        place.before_the_bucket();
                        writeln!(stdout(), "waiting for the bucket {BUCKET}: {KEY} is off")?;
                    }
                    Failure::Passing => {}
                    _ if is_first => {} // it ends here, with this error
                    _ => {
                        told.set(true);
                        let why = common::explain(error.as_ref());
                        tracing::warn!("cannot watch the bucket {BUCKET}, trying on: {why}");
                    }
                }
            }
            opened
        };
        let opened = common::retry(client, worth, Duration::MAX, open).await;
        let (bucket, mut entries) =
            opened.with_context(|| format!("cannot watch the bucket on {}", args.nats))?;

        // A watch shows what is there, and nothing where nothing is. Once said is enough.
        let created = Some(bucket.stream.cached_info().created);
        let is_told = is_first && told.get();
        let is_news = watched.replace(created) != Some(created) && !is_told;
        if is_news && bucket.entry(KEY).await.is_ok_and(|entry| entry.is_none()) {
            writeln!(stdout(), "watching, no value yet: {KEY} is off")?;
        }
        // A watch that has lost its connection, or its bucket, can be silent for ever, and comes to
        // its end with neither. A new one begins where it ended.
        let (mut lost, mut another) = (pin!(lost), pin!(kv::until_another(&bucket)));
        while tally.left(args.limit) > 0 {
            let entry = tokio::select! {
                biased; // what has come is printed first
                entry = entries.next() => entry,
                () = &mut lost => break,
                () = &mut another => break,
            };
            let Some(Ok(entry)) = entry else {
                sleep(PAUSE).await;
                break;
            };
            place.pass(entry.revision);
            let state = kv::read(&entry);
            *is_on = state == Ok(true);
            if !args.quiet {
                writeln!(
                    stdout(),
                    "#{} {KEY} is {}",
                    entry.revision,
                    kv::word(*is_on)
                )?;
            }
            if let Err(why) = &state {
                tracing::warn!("#{} {KEY} {why}: it is off", entry.revision);
            }
            if kv::counts(&entry) {
                tally.add();
            }
        }
    }
    Ok(())
}

/// Watches from that place on.
async fn watch(jetstream: &Context, place: &Place) -> Result<(Store, Watch)> {
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
