//! Publishes orders into a stream, and counts an order only when nats-server has stored it.
//!
//! ```sh
//! cargo run -p jetstream --bin order-publisher  # terminal 1, whether a consumer runs or not
//! cargo run -p jetstream --bin order-consumer   # terminal 2, now or tomorrow
//! ```

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::Subject;
use async_nats::jetstream::ContextBuilder;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, StorageType};
use common::jetstream::{Failure, Window, create_stream, print_stored, publish_all, retry};
use common::{CancellationToken, payload::Order};
use orders::{STREAM, SUBJECT, SUBJECTS, lines, sample};

/// Time that nats-server has to acknowledge an order.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
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
    nats.give_up_if_refused();
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
    let mut created = None;
    // Does nothing if the stream exists with these settings.
    let mut create = async || {
        let stream = create_stream(&jetstream, &config).await?;
        let now = stream.cached_info().created;
        if created.replace(now).is_some_and(|before| before != now) {
            tracing::warn!("{STREAM} was gone, with all its orders: it is created again, empty");
        }
        Ok(())
    };
    let open = retry(&nats, &[Failure::Unanswered], args.patience, &mut create).await;
    open.with_context(|| format!("cannot publish orders on {}", nats.servers()))?;

    let run = rand::random();
    let orders = (1..=args.count).map(|number| sample::order(run, number));
    // Orders in flight share a round trip. After an outage they are sent again.
    let window = Window { in_flight: args.in_flight.into(), patience: args.patience };
    let stored = publish_all(&nats, &jetstream, window, orders, message, create);
    let line = |order: &_, ack: &_| (!args.quiet).then(|| lines::stored(order, ack));
    print_stored(&nats, "orders", stored, line).await
}

/// The subject and the message of an order. By the message id nats-server recognises an order that
/// is sent again.
fn message(order: &Order) -> Result<(Subject, PublishMessage)> {
    let payload = serde_json::to_vec(order)?;
    let message = PublishMessage::build().message_id(&order.order_id).payload(payload.into());
    Ok((SUBJECT.into(), message))
}
