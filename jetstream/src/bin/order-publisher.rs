//! Publishes orders into a stream, and counts an order only when nats-server has stored it.
//!
//! ```sh
//! cargo run -p jetstream --bin order-publisher  # terminal 1, whether a consumer runs or not
//! cargo run -p jetstream --bin order-consumer   # terminal 2, now or tomorrow
//! ```

use std::collections::VecDeque;
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::jetstream::{Context, ContextBuilder, context::PublishError};
use common::jetstream::{Failure, explain, failure, retry};
use common::{CancellationToken, Output, payload::Order};
use futures::future::BoxFuture;
use orders::{STREAM, SUBJECT, SUBJECTS, create_stream, lines, sample};
use tokio::time::sleep;

/// Time that nats-server has to acknowledge an order.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before the orders in flight are sent again.
const PAUSE: Duration = Duration::from_millis(50);
/// nats-server remembers message ids for this long. Give up before that (`--patience`): a repetition
/// that comes later is stored a second time.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Publishes orders into the stream `playgrnd_stream`.
#[derive(clap::Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    /// How many orders to send
    #[arg(long, default_value_t = 10)]
    count: u64,
    /// Where the stream keeps them; what is in memory is gone when nats-server ends
    #[arg(long, default_value = "memory", value_parser = ["memory", "file"])]
    storage: String,
    /// How many servers of a cluster keep a copy
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    replicas: u8,
    /// How many orders may be in flight: sent, and not acknowledged yet
    #[arg(long, default_value_t = 256, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1000))]
    in_flight: u16,
    /// Give up when nats-server has stored nothing for this long
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    patience: Duration,
    /// Print no line for each order
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    common::run(publish_orders)
}

async fn publish_orders(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("order-publisher", &stop).await?;
    let jetstream = ContextBuilder::new().timeout(ACK_TIMEOUT).ack_timeout(ACK_TIMEOUT);
    let jetstream = jetstream.build((*nats).clone());
    let file = args.storage == "file";
    let config = Config {
        name: STREAM.into(),
        subjects: vec![SUBJECTS.into()],
        storage: if file { StorageType::File } else { StorageType::Memory },
        num_replicas: args.replicas.into(),
        duplicate_window: DUPLICATE_WINDOW,
        ..Default::default()
    };
    // Does nothing if the stream exists with these settings.
    let create = async || create_stream(&jetstream, &config).await;
    let created = retry(&nats, &[Failure::Unanswered], args.patience, create).await;
    let mut stream =
        created.with_context(|| format!("cannot publish orders on {}", nats.servers()))?;

    let (run, started, mut out) = (rand::random(), Instant::now(), Output::new());
    let mut orders = (1..=args.count).map(|number| sample::order(run, number));
    let (mut stored, mut last_stored) = (0, started);
    // The orders in flight, the oldest in front.
    let mut window: VecDeque<(Order, Ack)> = VecDeque::new();
    let mut disconnected = pin!(nats.disconnected());
    let end: Result<()> = loop {
        while window.len() < args.in_flight.into()
            && !stop.is_cancelled()
            && let Some(order) = orders.next()
        {
            let ack = send(&jetstream, &order).await?;
            window.push_back((order, ack));
        }
        let Some((order, ack)) = window.front_mut() else { break Ok(()) };
        let error = tokio::select! {
            biased;
            ack = ack => match ack {
                Ok(ack) => {
                    (stored, last_stored) = (stored + 1, Instant::now());
                    if !args.quiet {
                        out.line(lines::stored(order, &ack)).await?;
                    }
                    window.pop_front();
                    continue;
                }
                Err(error) => error.into(),
            },
            error = disconnected.as_mut() => error,
        };
        let left = args.patience.saturating_sub(last_stored.elapsed());
        if failure(error.as_ref()) == Failure::Refused || left.is_zero() {
            break Err(anyhow!(explain(error.as_ref())));
        }

        // nats-server may have stored the order or not. All orders in flight are sent again, in the
        // same order. Those that are stored it recognises by their message ids.
        tracing::debug!("{} orders are not acknowledged: {error:#}", window.len());
        sleep(PAUSE).await;
        let retry_on = [Failure::Unanswered, Failure::Missing, Failure::Off];
        let found = match retry(&nats, &retry_on, left, create).await {
            Ok(found) => found,
            Err(error) => break Err(error),
        };
        if found.cached_info().created != stream.cached_info().created {
            tracing::warn!("{STREAM} was gone, with all its orders: it is created again, empty");
        }
        stream = found;
        disconnected.set(nats.disconnected());
        for (order, ack) in &mut window {
            *ack = send(&jetstream, order).await?;
        }
    };

    out.flush().await?;
    if let Err(error) = end {
        let (servers, unknown) = (nats.servers(), window.len());
        bail!("{stored} orders are stored on {servers}, {unknown} more may be or not: {error:#}");
    }
    out.line(common::summary(stored, "orders", started.elapsed())).await?;
    out.flush().await
}

/// An acknowledgement that is on its way.
type Ack = BoxFuture<'static, Result<PublishAck, PublishError>>;

/// Sends an order with a message id, by which nats-server recognises a repetition.
async fn send(jetstream: &Context, order: &Order) -> Result<Ack> {
    let payload = serde_json::to_vec(order)?;
    let message = PublishMessage::build().message_id(&order.order_id).payload(payload.into());
    let sent = jetstream.send_publish(SUBJECT, message).await;
    Ok(Box::pin(async { sent?.await }))
}
