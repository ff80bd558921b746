//! Publishes orders into a stream, and counts an order only when the server has stored it.
//!
//! ```sh
//! cargo run -p jetstream --bin order-publisher  # terminal 1, whether a consumer runs or not
//! cargo run -p jetstream --bin order-consumer   # terminal 2, now or tomorrow
//! ```

use std::collections::VecDeque;
use std::io::{BufWriter, Write, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{Context, ContextBuilder, stream};
use clap::{Parser, ValueEnum};
use futures::FutureExt;
use jetstream::refusal::{OFF, Refusal};
use jetstream::{PAUSE, STREAM, SUBJECT, SUBJECTS, TIMEOUT, lines, sample, settings};
use tokio::time::sleep;

/// For so long the server knows the message ids of what it stored, and does not store a
/// repetition: it has to be longer than anybody repeats.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Publishes orders into the stream `playgrnd_stream`.
#[derive(Parser)]
struct Args {
    /// How many orders
    #[arg(long, default_value_t = 10)]
    count: u64,
    /// Where the stream keeps them: what is in memory goes with its server
    #[arg(long, value_enum, default_value_t = Storage::Memory)]
    storage: Storage,
    /// How many servers of a cluster keep them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    replicas: u8,
    // One at a time waits a round trip for each. With more than 256 the server is no faster, and
    // a restart leaves more to repeat; from 5,000 on the library itself waits, for ever.
    /// How many of them to have on their way, not acknowledged yet
    #[arg(long, default_value_t = 256, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1000))]
    in_flight: u16,
    /// How long to go on trying while the server stores nothing
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = humantime::parse_duration)]
    patience: Duration,
    /// Print no line for each order
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    nats: common::NatsArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Storage {
    Memory,
    File,
}

fn main() -> ExitCode {
    common::run(order_publisher(Args::parse()))
}

async fn order_publisher(args: Args) -> Result<()> {
    let client = args.nats.connect("order-publisher").await?;
    let server = &args.nats;
    let jetstream = ContextBuilder::new().timeout(TIMEOUT).build(client);
    let mut stream = tokio::select! {
        stream = create(&jetstream, &args, None) => {
            stream.with_context(|| format!("cannot publish orders at {server}"))?
        }
        () = common::shutdown() => return Ok(()),
    };

    let mut out = BufWriter::new(stdout());
    let run = rand::random();
    let mut fresh = (1..=args.count).map(|number| sample::order(run, number));
    let (mut in_flight, mut again) = (VecDeque::new(), VecDeque::new());
    let (mut stored, mut repeated, mut recognised) = (0, 0, 0);
    let (mut interrupted, mut refused) = (false, None);
    let start = Instant::now();
    let mut last_stored = start;
    loop {
        // Told to stop, it sends nothing new; what is on its way is answered soon, or never.
        let stopping = refused.is_some() || common::shutdown().now_or_never().is_some();
        while in_flight.len() < args.in_flight.into()
            && !interrupted
            && !stopping
            && let Some(order) = again.pop_front().or_else(|| fresh.next())
        {
            let message = PublishMessage::build()
                .message_id(&order.order_id)
                .payload(serde_json::to_vec(&order)?.into());
            // Ok means that it is in a buffer; that it is stored, the acknowledgement says.
            let acknowledgement = jetstream.send_publish(SUBJECT, message).await?;
            in_flight.push_back((order, acknowledgement.into_future()));
        }

        if let Some((order, mut acknowledgement)) = in_flight.pop_front() {
            let answer = match (&mut acknowledgement).now_or_never() {
                Some(answer) => answer,
                // Behind an order that went unanswered nothing is worth waiting for.
                None if interrupted => {
                    again.push_back(order);
                    continue;
                }
                // Nothing has come in: time to show what has.
                None => {
                    out.flush()?;
                    acknowledgement.await
                }
            };
            match answer {
                Ok(ack) => {
                    last_stored = Instant::now();
                    stored += 1;
                    recognised += u64::from(ack.duplicate);
                    if !args.quiet {
                        writeln!(out, "{}", lines::stored(&order, ack.sequence))?;
                    }
                }
                Err(error) => {
                    if let Refusal::Lasting(advice) = Refusal::from(&error) {
                        refused = Some(format!("{error}{advice}"));
                        continue;
                    }
                    // Stored or not, the server did not say. Sent again with the same message id,
                    // the order is stored once in either case.
                    tracing::debug!("{} is not acknowledged: {error}", order.order_id);
                    again.push_back(order);
                    interrupted = true;
                }
            }
        } else if interrupted && !stopping {
            sleep(PAUSE).await;
            let known = Some((&stream, last_stored));
            stream = tokio::select! {
                found = create(&jetstream, &args, known) => {
                    found.with_context(|| format!("{stored} orders are stored at {server}"))?
                }
                () = common::shutdown() => continue,
            };
            repeated += again.len();
            interrupted = false;
        } else {
            break;
        }
    }

    out.flush()?;
    if let Some(error) = refused {
        bail!("{stored} orders are stored, then {server} refused one: {error}");
    }
    if !again.is_empty() {
        let unknown = again.len();
        tracing::warn!("{unknown} orders were not acknowledged: they may be stored or not");
    }
    if repeated > 0 {
        tracing::info!(
            "{repeated} orders were sent again, of which {recognised} had been stored: not stored twice"
        );
    }
    let summary = common::summary(stored, "orders", start.elapsed());
    writeln!(out, "{summary}")?;
    Ok(out.flush()?)
}

/// Creates the stream, which keeps every order until somebody deletes it. Where it is there as it
/// should be, that has no effect; one in memory has gone with its server, and is made anew.
async fn create(
    jetstream: &Context,
    args: &Args,
    known: Option<(&stream::Stream, Instant)>,
) -> Result<stream::Stream> {
    let config = stream::Config {
        name: STREAM.into(),
        subjects: vec![SUBJECTS.into()],
        storage: match args.storage {
            Storage::Memory => stream::StorageType::Memory,
            Storage::File => stream::StorageType::File,
        },
        num_replicas: args.replicas.into(),
        duplicate_window: DUPLICATE_WINDOW,
        ..Default::default()
    };
    let since = known.map_or_else(Instant::now, |(_, last_stored)| last_stored);
    loop {
        let error = match jetstream.create_stream(&config).await {
            Ok(stream) => {
                let created = stream.cached_info().created;
                if known.is_some_and(|(known, _)| known.cached_info().created != created) {
                    tracing::warn!(
                        "{STREAM} was gone with all that it kept: it is created again, and empty"
                    );
                }
                return Ok(stream);
            }
            Err(error) => error,
        };
        match Refusal::from(&error) {
            // Only at the start: a server that is stopping has its JetStream off, too.
            Refusal::Off if known.is_none() => bail!(OFF),
            Refusal::OtherSettings => {
                let found = jetstream.get_stream(STREAM).await?;
                bail!(
                    "the stream {STREAM} exists with other settings: {}; delete it with `nats stream rm {STREAM}`, or ask for what it is with --storage and --replicas",
                    settings::differences(&config, &found.cached_info().config)?
                );
            }
            Refusal::Lasting(advice) => {
                bail!("cannot create the stream {STREAM}: {error}{advice}")
            }
            _ => {}
        }
        ensure!(
            since.elapsed() < args.patience,
            "it has stored nothing for too long, giving up: {error}"
        );
        sleep(PAUSE).await;
    }
}
