//! Records the readings of MQTT sensors, including those that were sent while it was away.
//!
//! ```sh
//! cargo run -p mqtt-bridge --bin recorder               # terminal 1: once, to create the stream
//! cargo run -p mqtt-bridge --bin sensor -- --count 5    # terminal 2
//! cargo run -p mqtt-bridge --bin recorder -- --limit 5  # later: all five are there
//! ```

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::Client;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{AckKind, ContextBuilder, stream};
use clap::Parser;
use common::jetstream::{Batch, Pull, open_durable};
use common::{CancellationToken, Output, Tally};
use mqtt_bridge::SUBJECT;

const STREAM: &str = "readings";
const CONSUMER: &str = "recorder";
/// Readings to fetch at a time, and how long to wait for them.
const BATCH: Batch = Batch { max_messages: 500, expires: Duration::from_secs(1) };
/// A reading that is not acknowledged in this time is delivered again.
const ACK_WAIT: Duration = Duration::from_secs(2);
/// Delivered readings, not acknowledged yet, of all recorders together.
const MAX_ACK_PENDING: i64 = 1_000;
/// Time for an answer of nats-server.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A repetition is recognised among this many readings.
const DEDUP_SIZE: usize = 65_536;

/// Prints every reading that sensors send, once, even if it was not running at that time.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    /// Stop after this many readings
    #[arg(long)]
    limit: Option<u64>,
    /// Print no line for each reading
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    common::run(record)
}

async fn record(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("recorder", &stop).await?;
    let jetstream = ContextBuilder::new().timeout(TIMEOUT).build(Client::clone(&nats));

    // From its creation on, the stream captures what sensors publish by MQTT.
    let stream = stream::Config {
        name: STREAM.into(),
        subjects: vec![SUBJECT.into()],
        storage: stream::StorageType::File,
        ..Default::default()
    };
    // nats-server keeps this consumer's position in the stream while no recorder runs.
    let consumer = pull::Config {
        durable_name: Some(CONSUMER.into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: MAX_ACK_PENDING,
        ..Default::default()
    };
    let open = async || {
        mqtt_bridge::open_stream(&jetstream, &stream).await?;
        open_durable(&jetstream, STREAM, consumer.clone()).await
    };
    let pull = Pull::open(&nats, BATCH, open).await;
    let mut pull = pull.with_context(|| format!("cannot record on {}", nats.servers()))?;
    let recorded = mqtt_bridge::recorded_before(&nats, &jetstream, pull.consumer(), DEDUP_SIZE);
    let mut recorded = recorded.await?;
    let mut out = Output::new();
    out.line(format!("recording {SUBJECT} from the stream {STREAM}")).await?;

    let mut tally = Tally::default();
    while let left @ 1.. = tally.left(args.limit)
        && let Some(messages) = pull.next(left).await?
    {
        let mut answers = Vec::with_capacity(messages.len());
        for message in messages {
            let answer = match mqtt_bridge::reading(&message.payload) {
                // QoS 1 and JetStream deliver at least once: sometimes twice.
                Ok(reading) if !recorded.insert(mqtt_bridge::reading_id(&reading)) => AckKind::Ack,
                Ok(reading) => {
                    tally.add();
                    if !args.quiet {
                        out.line(mqtt_bridge::line(&reading)).await?;
                    }
                    AckKind::Ack
                }
                Err(error) => {
                    let why = common::printable(&format!("{error:#}"));
                    tracing::warn!("not a reading, terminated: {why}");
                    AckKind::Term
                }
            };
            answers.push((message, answer));
        }
        // Recorded first: if the recorder dies in between, the readings are delivered again.
        out.flush().await?;
        pull.acknowledge(answers).await?;
    }
    if args.limit.is_some() {
        out.line(tally.summary("readings")).await?;
    }
    out.flush().await?;
    pull.close().await
}
