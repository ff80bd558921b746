//! Records the readings of MQTT sensors, also those that were sent while it was away.
//!
//! ```sh
//! cargo run -p mqtt-bridge --bin recorder                 # terminal 1: once, to make the stream
//! cargo run -p mqtt-bridge --bin sensor -- --count 5      # terminal 2
//! cargo run -p mqtt-bridge --bin recorder -- --limit 5    # later: all five are there
//! ```

use std::io::{BufWriter, Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::{AckKind, ContextBuilder, stream};
use clap::Parser;
use common::{Pull, Tally};
use mqtt_bridge::SUBJECT;

/// The stream that keeps the readings.
const STREAM: &str = "readings";
/// Its durable consumer.
const CONSUMER: &str = "recorder";
/// How long the server has to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// What is not acknowledged after this time is delivered again: its recorder may have died.
const ACK_WAIT: Duration = Duration::from_secs(2);
/// How many readings back a repetition is recognised.
const MEMORY: usize = 65_536;

/// Prints every reading that sensors send, once, whether it runs at that time or not.
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
    common::run(record(common::parse()))
}

async fn record(args: Args) -> Result<()> {
    let client = args.nats.connect("recorder").await?;
    let jetstream = ContextBuilder::new().timeout(ANSWER).build(client.clone());

    // The stream captures what sensors publish by MQTT like what is published on NATS: from its
    // creation on, nobody has to be there.
    let stream = stream::Config {
        name: STREAM.into(),
        subjects: vec![SUBJECT.into()],
        storage: stream::StorageType::File,
        ..Default::default()
    };
    // The server's notebook about us: it is durable, so a recorder goes on where the last one
    // stopped.
    let consumer = pull::Config {
        durable_name: Some(CONSUMER.into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        ..Default::default()
    };
    let open = async || -> Result<PullConsumer> {
        let stream = jetstream.get_or_create_stream(stream.clone()).await?;
        let consumer = stream.get_or_create_consumer(CONSUMER, consumer.clone());
        Ok(consumer.await?)
    };
    let opened = Pull::open(&client, open).await;
    let mut pull = opened.with_context(|| format!("cannot record on {}", args.nats))?;
    let mut seen = mqtt_bridge::recall(&jetstream, pull.consumer(), MEMORY).await?;
    let mut out = BufWriter::new(stdout());
    writeln!(out, "recording {SUBJECT} from the stream {STREAM}")?;
    out.flush()?;

    let mut tally = Tally::default();
    while let left @ 1.. = tally.left(args.limit)
        && let Some(messages) = pull.next(left).await?
    {
        let mut answers = Vec::with_capacity(messages.len());
        for message in messages {
            let answer = match mqtt_bridge::reading(&message.payload) {
                Ok(reading) => {
                    // QoS 1 and JetStream promise "at least once": sometimes it is twice.
                    if seen.insert(mqtt_bridge::name(&reading)) {
                        tally.add();
                        if !args.quiet {
                            writeln!(out, "{}", mqtt_bridge::line(&reading))?;
                        }
                    } else {
                        tracing::debug!("again: {}", mqtt_bridge::line(&reading));
                    }
                    AckKind::Ack
                }
                Err(error) => {
                    let why = common::printable(&format!("{error:#}"));
                    tracing::warn!("no reading, never to come again: {why}");
                    AckKind::Term
                }
            };
            answers.push((message, answer));
        }
        // Recorded first: a recorder that dies between the two gets the readings once more.
        out.flush()?;
        for (message, answer) in answers {
            message.ack_with(answer).await.map_err(Error::from_boxed)?;
        }
    }
    if args.limit.is_some() {
        writeln!(out, "{}", tally.summary("readings"))?;
        out.flush()?;
    }
    if let Err(error) = common::close(&client).await {
        tracing::warn!("{error:#}: the readings recorded last may come again");
    }
    Ok(())
}
