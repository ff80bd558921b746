//! Records the readings of MQTT sensors, also those that were sent while it was away.
//!
//! ```sh
//! cargo run -p mqtt-bridge --bin recorder                 # terminal 1: once, to make the stream
//! cargo run -p mqtt-bridge --bin sensor -- --count 5      # terminal 2
//! cargo run -p mqtt-bridge --bin recorder -- --limit 5    # later: all five are there
//! ```

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::{self, AckKind, stream};
use clap::Parser;
use futures::StreamExt;
use mqtt_bridge::{SUBJECT, Seen};
use tokio::time::sleep;

const STREAM: &str = "readings";
const CONSUMER: &str = "recorder";
/// How many readings the server hands over ahead.
const BATCH: usize = 256;
/// The server's sign of life while there is nothing to record. Two missed ones are noticed.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// What was handed to a recorder that died is handed over again after this time.
const ACK_WAIT: Duration = Duration::from_secs(2);
/// What a recorder that stops was handed already arrives within this time.
const ARRIVAL: Duration = Duration::from_millis(100);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(250);
/// How many readings back a repetition is recognised.
const MEMORY: usize = 65_536;
/// How many of those a recorder recalls that is started again.
const RECALL: usize = 20_000;

/// Prints every reading that sensors send, once, whether it runs at that time or not.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    /// Stop after this many readings
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Print no line for each reading
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    common::run(recorder(Args::parse()))
}

async fn recorder(args: Args) -> Result<()> {
    let client = args.nats.connect("recorder").await?;
    let mut jetstream = jetstream::new(client.clone());
    jetstream.set_timeout(REQUEST_TIMEOUT);
    let mut consumer = open(&jetstream).await.with_context(|| {
        let server = &args.nats;
        format!("{server} cannot record; it needs JetStream (`nats-server -js`)")
    })?;
    let mut seen = Seen::new(MEMORY);
    recall(&jetstream, &mut consumer, &mut seen).await?;
    let mut messages = messages(&consumer).await?;
    writeln!(stdout(), "recording {SUBJECT} from the stream {STREAM}")?;

    let (mut count, mut start) = (0, None);
    // Once told to stop: how many more readings to wait for. What the server has handed to us, it
    // hands to nobody else until `ACK_WAIT` is over.
    let mut left = None;
    while args.limit.is_none_or(|limit| count < limit) && left != Some(0) {
        let next = tokio::select! {
            biased;
            () = common::shutdown(), if left.is_none() => {
                left = Some(BATCH);
                continue;
            }
            () = sleep(ARRIVAL), if left.is_some() => break,
            next = messages.next() => next,
        };
        left = left.map(|left| left - 1);
        let message = match next {
            Some(Ok(message)) => message,
            _ if left.is_some() => break,
            end => {
                // The server is away, or somebody deleted the consumer or the stream. In the first
                // case the messages go on by themselves when it is back; in the second never.
                tracing::debug!("no sign of life: {end:?}");
                let Some(found) = reopen(&jetstream).await else {
                    continue;
                };
                let is_other = found.cached_info().created != consumer.cached_info().created;
                if is_other || end.is_none() {
                    if is_other {
                        tracing::warn!("the consumer {CONSUMER} was deleted, it is made again");
                    }
                    consumer = found;
                    messages = self::messages(&consumer).await?;
                }
                continue;
            }
        };
        match mqtt_bridge::reading(&message.payload) {
            // QoS 1 and JetStream promise "at least once": sometimes it is twice.
            Ok(reading) if !seen.is_new(&reading) => {
                tracing::debug!("again: {}", mqtt_bridge::line(&reading));
            }
            Ok(reading) => {
                start.get_or_insert_with(Instant::now);
                count += 1;
                if !args.quiet {
                    writeln!(stdout(), "{}", mqtt_bridge::line(&reading))?;
                }
            }
            Err(error) => {
                tracing::warn!("no reading, never to come again: {error:#}");
                message
                    .ack_with(AckKind::Term)
                    .await
                    .map_err(anyhow::Error::from_boxed)?;
                continue;
            }
        }
        // Only now: a recorder that dies before this line gets the reading once more.
        message.ack().await.map_err(anyhow::Error::from_boxed)?;
    }
    if args.limit.is_some() {
        let elapsed = start.map_or_else(Default::default, |start| start.elapsed());
        writeln!(stdout(), "{}", common::summary(count, "readings", elapsed))?;
    }
    if let Err(error) = common::close(&client).await {
        // What we have not acknowledged comes once more, and is recognised.
        tracing::warn!("{error:#}");
    }
    Ok(())
}

/// The consumer, made where it does not exist, and the stream, too.
async fn open(jetstream: &jetstream::Context) -> Result<PullConsumer> {
    let stream = stream::Config {
        name: STREAM.into(),
        subjects: vec![SUBJECT.into()],
        storage: stream::StorageType::File,
        ..Default::default()
    };
    let stream = jetstream.get_or_create_stream(stream).await;
    let stream = stream.with_context(|| format!("cannot open the stream {STREAM}"))?;
    let consumer = pull::Config {
        durable_name: Some(CONSUMER.into()),
        filter_subject: SUBJECT.into(),
        ack_wait: ACK_WAIT,
        ..Default::default()
    };
    let consumer = stream.get_or_create_consumer(CONSUMER, consumer).await;
    consumer.with_context(|| format!("cannot open the consumer {CONSUMER}"))
}

/// As [`open`], for as long as it takes; none when we are told to stop.
async fn reopen(jetstream: &jetstream::Context) -> Option<PullConsumer> {
    let found = async {
        loop {
            match open(jetstream).await {
                Ok(consumer) => return consumer,
                Err(error) => tracing::debug!("{error:#}"),
            }
            sleep(RETRY).await;
        }
    };
    tokio::select! {
        found = found => Some(found),
        () = common::shutdown() => None,
    }
}

async fn messages(consumer: &PullConsumer) -> Result<pull::Stream> {
    let messages = consumer.stream();
    let messages = messages.max_messages_per_batch(BATCH).heartbeat(HEARTBEAT);
    Ok(messages.messages().await?)
}

/// Remembers what was recorded last before this start: a sensor may send it again now.
async fn recall(
    jetstream: &jetstream::Context,
    consumer: &mut PullConsumer,
    seen: &mut Seen,
) -> Result<()> {
    // All up to here was acknowledged. What comes next may not have been recorded.
    let recorded = consumer.info().await?.ack_floor.stream_sequence;
    if recorded == 0 {
        return Ok(());
    }
    let history = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: recorded.saturating_sub(RECALL as u64).max(1),
        },
        ack_policy: AckPolicy::None,
        filter_subject: SUBJECT.into(),
        inactive_threshold: ACK_WAIT,
        ..Default::default()
    };
    let history = jetstream.create_consumer_on_stream(history, STREAM).await?;
    let mut messages = history.fetch().max_messages(RECALL).messages().await?;
    while let Some(message) = messages.next().await {
        let message = message.map_err(anyhow::Error::from_boxed)?;
        let info = message.info().map_err(anyhow::Error::from_boxed)?;
        if info.stream_sequence > recorded {
            break;
        }
        if let Ok(reading) = mqtt_bridge::reading(&message.payload) {
            seen.is_new(&reading);
        }
    }
    Ok(())
}
