//! Publishes orders into a stream, and counts an order only when the server has stored it.
//!
//! ```sh
//! cargo run -p jetstream --bin order-publisher  # terminal 1, whether a consumer runs or not
//! cargo run -p jetstream --bin order-consumer   # terminal 2, now or tomorrow
//! ```

use std::cell::Cell;
use std::io::{BufWriter, Write, stdout};
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{Context, ContextBuilder, stream};
use clap::{Parser, ValueEnum};
use common::payload::Order;
use common::{Failure, Stopped};
use futures::StreamExt;
use futures::future::{LocalBoxFuture, ready};
use jetstream::{ANSWER, OrderStream, STREAM, SUBJECT, SUBJECTS, lines, sample};

/// For so long the server knows the message ids of what it stored, and does not store a
/// repetition: it has to outlast every repetition.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Publishes orders into the stream `playgrnd_stream`.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    /// How many orders to send
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
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    patience: Duration,
    /// Print no line for each order
    #[arg(long)]
    quiet: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Storage {
    Memory,
    File,
}

fn main() -> ExitCode {
    let args: Args = common::parse();
    // Lines can wait in a full pipe, and acknowledgements have to be read all the same.
    if args.quiet {
        common::run(publish_orders(args))
    } else {
        common::run_multi_thread(publish_orders(args))
    }
}

async fn publish_orders(args: Args) -> Result<()> {
    let client = args.nats.connect("order-publisher").await?;
    let jetstream = ContextBuilder::new().timeout(ANSWER).build(client);

    // The stream keeps every order until somebody deletes it, or, in memory, its server ends. It
    // belongs to the publisher, who
    // knows what is to be kept and where; the consumer takes it as it is.
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
    let opened = OrderStream::open(jetstream.clone(), config, args.patience).await;
    let stream = opened.with_context(|| format!("cannot publish orders on {}", args.nats))?;

    // One after the other is sent, so they are stored in that order; but their acknowledgements are
    // awaited many at a time. Told to stop, it sends no new ones.
    let (run, started, failed) = (rand::random(), Instant::now(), Cell::new(false));
    let numbers = futures::stream::iter(1..=args.count)
        .take_until(common::shutdown())
        .take_while(|_| ready(!failed.get()));
    let sent = numbers.then(async |number| {
        let order = sample::order(run, number);
        let sent = send(&jetstream, &order).await;
        (order, sent)
    });
    let in_flight = usize::from(args.in_flight);
    let answered = sent
        .map(async |(order, sent)| {
            let answer = until_stored(&jetstream, &stream, &order, sent).await;
            failed.set(failed.get() || answer.is_err());
            (order, answer)
        })
        .buffered(in_flight)
        .ready_chunks(in_flight);
    let mut orders = pin!(answered);
    let mut out = BufWriter::new(stdout());
    let (mut stored, mut repeated, mut recognised, mut unknown) = (0, 0, 0, 0);
    let mut refusal = None;
    while let Some(orders) = orders.next().await {
        for (order, answer) in orders {
            match answer {
                Ok(Some((ack, repetitions))) => {
                    stored += 1;
                    repeated += repetitions;
                    recognised += u64::from(ack.duplicate);
                    if !args.quiet {
                        writeln!(out, "{}", lines::stored(&order, ack.sequence))?;
                    }
                }
                Ok(None) => unknown += 1,
                Err(error) => {
                    refusal.get_or_insert(error);
                }
            }
        }
        out.flush()?;
    }

    if let Some(error) = refusal {
        bail!(
            "{stored} orders are stored on {}, and then: {error:#}",
            args.nats
        );
    }
    if unknown > 0 {
        tracing::warn!("{unknown} orders were not acknowledged: they may be stored or not");
    }
    if repeated > 0 {
        tracing::info!(
            "{repeated} orders were sent again, of which {recognised} had been stored: not stored twice"
        );
    }
    let summary = common::summary(stored, "orders", started.elapsed());
    writeln!(out, "{summary}")?;
    // What is acknowledged is stored: there is nothing on its way to wait for.
    out.flush()?;
    Ok(())
}

type Acknowledged<'a> = LocalBoxFuture<'a, Result<PublishAck>>;

/// Sends an order. Ok means that it is in a buffer. Only the acknowledgement says that it is stored,
/// and it never comes if the connection is lost first.
async fn send<'a>(jetstream: &Context, order: &Order) -> Result<Acknowledged<'a>> {
    let lost = common::lost();
    let message = PublishMessage::build()
        .message_id(&order.order_id)
        .payload(serde_json::to_vec(order)?.into());
    let acknowledgement = jetstream.send_publish(SUBJECT, message).await?;
    Ok(Box::pin(async move {
        tokio::select! {
            biased;
            acknowledged = acknowledgement.into_future() => Ok(acknowledged?),
            () = lost => bail!("the connection was lost"),
        }
    }))
}

/// Waits until the server has acknowledged an order, and says how often it had to be sent again;
/// none where we are told to stop before that, and it may be stored or not.
async fn until_stored(
    jetstream: &Context,
    stream: &OrderStream,
    order: &Order,
    mut sent: Result<Acknowledged<'_>>,
) -> Result<Option<(PublishAck, u64)>> {
    for repetitions in 0.. {
        let asked_at = Instant::now();
        let answer = match sent {
            Ok(acknowledged) => acknowledged.await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(ack) => {
                stream.has_stored();
                return Ok(Some((ack, repetitions)));
            }
            Err(error) if common::failure(error.as_ref()) == Failure::Lasting => {
                bail!(common::explain(error.as_ref()))
            }
            // Stored or not, the server did not say. Sent again with the same message id, the order
            // is stored once in either case.
            Err(error) => tracing::debug!("{} is not acknowledged: {error}", order.order_id),
        }
        match stream.find_again(asked_at).await {
            Err(error) if error.is::<Stopped>() => break,
            found => found?,
        }
        sent = send(jetstream, order).await;
    }
    Ok(None)
}
