//! Takes orders from a stream, prints each, and only then acknowledges it.
//!
//! ```sh
//! cargo run -p jetstream --bin order-publisher  # terminal 1, whether a consumer runs or not
//! cargo run -p jetstream --bin order-consumer   # terminal 2, now or tomorrow; or several
//! ```

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{AckKind, ContextBuilder};
use common::jetstream::{Batch, Pull, open_durable, with_progress};
use common::payload::{self, Order};
use common::{CancellationToken, Dedup, Output, Tally};
use orders::{DURABLE, STREAM, lines};
use tokio::time::sleep;

/// nats-server delivers an order again, to any consumer, if it is not acknowledged for this long.
const ACK_WAIT: Duration = Duration::from_secs(5);
/// nats-server delivers nothing more while this many orders are unacknowledged.
const MAX_ACK_PENDING: i64 = 1_000;
/// Orders in a batch. If a consumer is killed, up to so many are delivered again.
const BATCH: usize = 1_000;
/// nats-server ends a batch after this time, even if it is not full.
const EXPIRES: Duration = Duration::from_secs(1);
/// Time that nats-server has to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Order ids that are remembered, to recognise an order that is delivered again.
const DEDUP: usize = 50_000;

/// Takes orders from the stream `playgrnd_stream`, with its durable consumer `order_processor`.
#[derive(clap::Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    /// Stop after this many orders
    #[arg(long)]
    limit: Option<u64>,
    /// Time spent on each order
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    work: Duration,
    /// Print no line for each order
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    common::run(take_orders)
}

async fn take_orders(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("order-consumer", &stop).await?;
    let jetstream = ContextBuilder::new().timeout(TIMEOUT).build((*nats).clone());
    // The consumer is an object of the server, and remembers which orders are acknowledged. It is
    // durable: the next process that opens it goes on where this one stops.
    let config = pull::Config {
        durable_name: Some(DURABLE.into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: MAX_ACK_PENDING,
        ..Default::default()
    };
    let open = async || open_durable(&jetstream, STREAM, config.clone()).await;
    // Slow work: the orders in a batch would wait for each other longer than ACK_WAIT.
    let max_messages = if args.work.is_zero() { BATCH } else { 1 };
    let pull = Pull::open(&nats, Batch { max_messages, expires: EXPIRES }, open).await;
    let mut pull = pull.with_context(|| format!("cannot take orders on {}", nats.servers()))?;
    let mut out = Output::new();
    out.line(lines::waiting(pull.consumer().cached_info())).await?;

    let (mut tally, mut dedup) = (Tally::default(), Dedup::new(DEDUP));
    while let left @ 1.. = tally.left(args.limit)
        && let Some(messages) = pull.next(left).await?
    {
        let (mut answers, mut repeated) = (Vec::with_capacity(messages.len()), 0);
        for message in messages {
            let info = message.info().map_err(Error::from_boxed)?;
            let (number, delivery) = (info.stream_sequence, info.delivered);
            let answer = match payload::parse::<Order>(&message.payload) {
                Ok(order) if dedup.insert(order.order_id.clone()) => {
                    if !args.work.is_zero() {
                        with_progress(&message, ACK_WAIT / 3, sleep(args.work)).await?;
                    }
                    tally.add();
                    if !args.quiet {
                        out.line(lines::taken(&order, delivery)).await?;
                    }
                    AckKind::Ack
                }
                Ok(_) => {
                    repeated += 1;
                    AckKind::Ack
                }
                // Without an answer it would be delivered again for ever.
                Err(error) => {
                    let why = common::printable(&error.to_string());
                    tracing::warn!("number {number} is no order, it is terminated: {why}");
                    AckKind::Term
                }
            };
            answers.push((message, answer));
        }
        if repeated > 0 {
            tracing::info!("{repeated} orders came again: not printed twice");
        }
        // Print first, then acknowledge. The other way round, a program that is killed in between
        // would lose the orders.
        out.flush().await?;
        pull.acknowledge(answers).await?;
    }

    if args.limit.is_some() {
        out.line(tally.summary("orders")).await?;
    }
    out.flush().await?;
    pull.close().await
}
