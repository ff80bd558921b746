//! Publishes orders into a stream, and counts an order only when the server has stored it.
//!
//! ```sh
//! cargo run -p jetstream --bin order-publisher  # terminal 1, whether a consumer runs or not
//! cargo run -p jetstream --bin order-consumer   # terminal 2, now or tomorrow
//! ```

use std::collections::VecDeque;
use std::future::ready;
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::jetstream::context::{CreateStreamErrorKind, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{Context, ContextBuilder, Error, ErrorCode, stream};
use clap::{Parser, ValueEnum};
use common::payload::Order;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use jetstream::{OFF, PAUSE, STREAM, SUBJECT, SUBJECTS, TIMEOUT, is_off, is_passing};
use serde_json::{Map, Value};
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
    let config = config(&args);
    let mut stream = tokio::select! {
        stream = create(&jetstream, &config, None, Instant::now() + args.patience) => {
            stream.with_context(|| format!("cannot publish orders at {server}"))?
        }
        () = common::shutdown() => return Ok(()),
    };

    let mut out = BufWriter::new(std::io::stdout());
    let run = rand::random();
    let mut fresh = (1..=args.count).map(|number| order(run, number));
    let mut again = VecDeque::new();
    let mut in_flight = FuturesOrdered::new();
    let (mut stored, mut repeated, mut recognised) = (0, 0, 0);
    let (mut interrupted, mut stopping, mut refused) = (false, false, None);
    let start = Instant::now();
    let mut last_stored = start;
    loop {
        while !interrupted
            && !stopping
            && in_flight.len() < args.in_flight.into()
            && let Some(order) = again.pop_front().or_else(|| fresh.next())
        {
            let message = PublishMessage::build()
                .message_id(&order.order_id)
                .payload(serde_json::to_vec(&order)?.into());
            let sent = jetstream.send_publish(SUBJECT, message).await;
            // Ok means that it is in a buffer; that it is stored, the acknowledgement says.
            in_flight.push_back(async {
                match sent {
                    Ok(acknowledgement) => (order, acknowledgement.await),
                    Err(error) => (order, Err(error)),
                }
            });
        }
        let next = tokio::select! {
            biased;
            next = in_flight.next() => next,
            // Nothing has come in: time to show what has.
            () = ready(()), if !out.buffer().is_empty() => { out.flush()?; continue }
            // Nothing new from here on. What is on its way is answered within the time-out, or
            // never.
            () = common::shutdown(), if !stopping => { stopping = true; continue }
        };
        match next {
            Some((order, Ok(ack))) => {
                last_stored = Instant::now();
                stored += 1;
                recognised += u64::from(ack.duplicate);
                if !args.quiet {
                    writeln!(out, "{}", line(&order, ack.sequence))?;
                }
            }
            // Stored or not, the server did not say: it may have stopped, or be electing a leader.
            // Sent again with the same message id, the order is stored once in either case.
            Some((order, Err(error))) if may_pass(&error) => {
                tracing::debug!("{} is not acknowledged: {error}", order.order_id);
                again.push_back(order);
                interrupted = true;
            }
            Some((_, Err(error))) => {
                refused = Some(error);
                stopping = true;
            }
            None if interrupted && !stopping => {
                sleep(PAUSE).await;
                let until = last_stored + args.patience;
                stream = tokio::select! {
                    found = create(&jetstream, &config, Some(&stream), until) => {
                        found.with_context(|| format!("{stored} orders are stored at {server}"))?
                    }
                    () = common::shutdown() => { stopping = true; continue }
                };
                repeated += again.len();
                interrupted = false;
            }
            None => break,
        }
    }

    out.flush()?;
    if let Some(error) = refused {
        bail!(
            "{stored} orders are stored, then {server} refused one: {error}{}",
            advice(code_of(&error))
        );
    }
    if !again.is_empty() {
        tracing::warn!(
            "{} orders were not acknowledged: they may be stored or not",
            again.len()
        );
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

/// What is asked of the server: a stream that keeps every order until somebody deletes it.
fn config(args: &Args) -> stream::Config {
    stream::Config {
        name: STREAM.into(),
        subjects: vec![SUBJECTS.into()],
        storage: match args.storage {
            Storage::Memory => stream::StorageType::Memory,
            Storage::File => stream::StorageType::File,
        },
        num_replicas: args.replicas.into(),
        duplicate_window: DUPLICATE_WINDOW,
        ..Default::default()
    }
}

/// Creates the stream. Where it is there as it should be, that has no effect; one in memory has
/// gone with its server, and is made anew.
async fn create(
    jetstream: &Context,
    config: &stream::Config,
    known: Option<&stream::Stream>,
    until: Instant,
) -> Result<stream::Stream> {
    loop {
        let error = match jetstream.create_stream(config).await {
            Ok(stream) => {
                let created = stream.cached_info().created;
                if known.is_some_and(|known| known.cached_info().created != created) {
                    tracing::warn!(
                        "{STREAM} was gone with all that it kept: it is created again, and empty"
                    );
                }
                return Ok(stream);
            }
            Err(error) => error,
        };
        match error.kind() {
            CreateStreamErrorKind::JetStream(error) => match error.error_code() {
                // Only at the start: a server that is stopping has its JetStream off, too.
                code if is_off(code) && known.is_none() => bail!(OFF),
                code if is_off(code) || is_passing(code) => {}
                ErrorCode::STREAM_NAME_EXIST => {
                    let found = jetstream.get_stream(STREAM).await?;
                    bail!(
                        "the stream {STREAM} exists with other settings: {}; delete it with `nats stream rm {STREAM}`, or ask for what it is with --storage and --replicas",
                        differences(config, &found.cached_info().config)?
                    );
                }
                _ => bail!(
                    "cannot create the stream {STREAM}: {error}{}",
                    advice(Some(error.error_code()))
                ),
            },
            CreateStreamErrorKind::JetStreamUnavailable if known.is_none() => bail!(OFF),
            CreateStreamErrorKind::JetStreamUnavailable | CreateStreamErrorKind::TimedOut => {}
            _ => return Err(error.into()),
        }
        ensure!(
            Instant::now() < until,
            "it has stored nothing for too long, giving up: {error}"
        );
        sleep(PAUSE).await;
    }
}

/// Whether the same publish can succeed a little later.
fn may_pass(error: &PublishError) -> bool {
    match error.kind() {
        // No answer, or nobody who answers for this subject: stopped, electing, or deleted.
        PublishErrorKind::TimedOut
        | PublishErrorKind::BrokenPipe
        | PublishErrorKind::StreamNotFound => true,
        _ => code_of(error).is_some_and(|code| is_off(code) || is_passing(code)),
    }
}

/// The server's own code, where it was the server that refused.
fn code_of(error: &PublishError) -> Option<ErrorCode> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref().map(Error::error_code)
}

/// What to do about a refusal.
fn advice(code: Option<ErrorCode>) -> &'static str {
    match code {
        Some(
            ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::MEMORY_RESOURCES_EXCEEDED
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::STREAM_STORE_FAILED,
        ) => {
            "; delete old orders with `nats stream purge playgrnd_stream`, or raise the server's limits"
        }
        Some(ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED | ErrorCode::CLUSTER_NO_PEERS) => {
            "; a replica needs a server of its own in a cluster"
        }
        _ => "",
    }
}

/// The order with this number in this run of the program.
fn order(run: u64, number: u64) -> Order {
    const ITEMS: [(&str, u64); 4] = [
        ("keyboard", 4_999),
        ("monitor", 18_900),
        ("mouse", 1_950),
        ("headset", 7_425),
    ];
    let turn = usize::try_from(number - 1).unwrap_or_default();
    let (item, unit_price_cents) = ITEMS[turn % ITEMS.len()];
    Order {
        order_id: format!("{run:016x}-{number}"),
        item: item.into(),
        quantity: if number.is_multiple_of(3) { 2 } else { 1 },
        unit_price_cents,
    }
}

fn line(order: &Order, sequence: u64) -> String {
    let Order {
        order_id,
        item,
        quantity,
        ..
    } = order;
    format!("{order_id} stored as number {sequence}: {quantity} x {item}")
}

/// What a stream that exists has otherwise than it should, by the names of its settings.
fn differences(wanted: &stream::Config, found: &stream::Config) -> Result<String> {
    let (wanted, found) = (settings(wanted)?, settings(found)?);
    let text = |value: Option<&Value>| match value {
        None => "unset".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    let mut names: Vec<_> = wanted.keys().chain(found.keys()).collect();
    names.sort();
    names.dedup();
    let different = names
        .into_iter()
        .filter(|name| wanted.get(*name) != found.get(*name))
        .map(|name| {
            let (found, wanted) = (text(found.get(name)), text(wanted.get(name)));
            format!("{name} is {found}, not {wanted}")
        });
    Ok(different.collect::<Vec<_>>().join(", "))
}

/// The settings that are set. What is left to the server comes back from it as 0, -1 or "none".
fn settings(config: &stream::Config) -> Result<Map<String, Value>> {
    let unset = [
        Value::Null,
        0.into(),
        (-1).into(),
        false.into(),
        "none".into(),
    ];
    let mut settings = match serde_json::to_value(config)? {
        Value::Object(settings) => settings,
        _ => Map::new(),
    };
    // The server notes its own version among the metadata.
    settings.retain(|name, value| name != "metadata" && !unset.contains(value));
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_named() -> Result<()> {
        let wanted = stream::Config {
            name: STREAM.into(),
            subjects: vec![SUBJECTS.into()],
            num_replicas: 1,
            ..Default::default()
        };
        let as_the_server_says_it = stream::Config {
            max_messages: -1,
            max_bytes: -1,
            ..wanted.clone()
        };
        assert_eq!(differences(&wanted, &as_the_server_says_it)?, "");
        let other = stream::Config {
            storage: stream::StorageType::Memory,
            num_replicas: 3,
            max_messages: 5,
            ..wanted.clone()
        };
        assert_eq!(
            differences(&wanted, &other)?,
            "max_msgs is 5, not unset, num_replicas is 3, not 1, storage is memory, not file"
        );
        Ok(())
    }

    #[test]
    fn order_ids_name_the_run() {
        assert_eq!(order(0xbeef, 7).order_id, "000000000000beef-7");
    }
}
