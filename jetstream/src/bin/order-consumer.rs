//! Takes orders from a stream, prints each, and only then acknowledges it.
//!
//! ```sh
//! cargo run -p jetstream --bin order-publisher  # terminal 1, whether a consumer runs or not
//! cargo run -p jetstream --bin order-consumer   # terminal 2, now or tomorrow; or several
//! ```

use std::cell::Cell;
use std::io::{BufWriter, Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::{AckKind, ContextBuilder};
use clap::Parser;
use common::payload::{self, Order};
use common::{Failure, Pull, Seen, Tally};
use jetstream::{ANSWER, DURABLE, STREAM, lines};

/// What is not acknowledged for so long, the server delivers again, to whoever asks.
const ACK_WAIT: Duration = Duration::from_secs(5);
/// Unacknowledged orders of all consumers together; beyond that, the server delivers none.
const MAX_ACK_PENDING: i64 = 10_000;
/// The order ids that are remembered: far more than can be on their way.
const MEMORY: usize = 50_000;

/// Takes orders from the stream `playgrnd_stream`, as its consumer `order_processor`.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    /// Stop after this many orders
    #[arg(long)]
    limit: Option<u64>,
    /// Print no line for each order
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    common::run(take_orders(common::parse()))
}

async fn take_orders(args: Args) -> Result<()> {
    let client = args.nats.connect("order-consumer").await?;
    let jetstream = ContextBuilder::new().timeout(ANSWER).build(client.clone());

    // The consumer is the server's notebook about us. It is durable: the server creates it the first
    // time, and later finds it as it was left, whichever process asks.
    let config = pull::Config {
        durable_name: Some(DURABLE.into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: MAX_ACK_PENDING,
        ..Default::default()
    };
    let told = Cell::new(false);
    let open = async || -> Result<PullConsumer> {
        let opened = jetstream.create_consumer_on_stream(config.clone(), STREAM);
        let opened = opened.await;
        match &opened {
            Ok(_) => told.set(false),
            // The stream is the publisher's: it knows where orders are to be kept, and how long.
            Err(error) if common::failure(error) == Failure::Missing && !told.replace(true) => {
                tracing::info!(
                    "there is no stream {STREAM}: waiting until order-publisher creates it"
                );
            }
            Err(_) => {}
        }
        Ok(opened?)
    };
    let opened = Pull::open(&client, open).await;
    let mut pull = opened.with_context(|| format!("cannot take orders on {}", args.nats))?;
    let mut out = BufWriter::new(stdout());
    let info = pull.consumer().cached_info();
    let waiting = info.num_pending + u64::try_from(info.num_ack_pending)?;
    writeln!(out, "waiting for orders in {STREAM}: {waiting} are there")?;
    out.flush()?;

    let (mut tally, mut repeated) = (Tally::default(), 0);
    let mut seen = Seen::new(MEMORY);
    while let left @ 1.. = tally.left(args.limit)
        && let Some(messages) = pull.next(left).await?
    {
        let (mut answers, mut again) = (Vec::with_capacity(messages.len()), Vec::new());
        for message in messages {
            let info = message.info().map_err(Error::from_boxed)?;
            let answer = match payload::parse::<Order>(&message.payload) {
                Ok(order) => {
                    // At least once means that some come twice: an acknowledgement that did not
                    // arrive, or an order that was published once more.
                    if seen.insert(order.order_id.clone()) {
                        tally.add();
                        if !args.quiet {
                            writeln!(out, "{}", lines::taken(&order, info.delivered))?;
                        }
                    } else {
                        again.push(order.order_id);
                    }
                    AckKind::Ack
                }
                // It will not parse next time either; left alone, it would come for ever.
                Err(error) => {
                    let number = info.stream_sequence;
                    let why = common::printable(&error.to_string());
                    tracing::warn!("number {number} is no order, it is terminated: {why}");
                    AckKind::Term
                }
            };
            answers.push((message, answer));
        }
        if let [first, more @ ..] = &again[..] {
            let (id, more) = (common::printable(first), more.len());
            tracing::info!("{id} came again, and {more} more: not printed twice");
            repeated += again.len();
        }
        // Printed first: whoever acknowledges first and is killed in between has lost it.
        out.flush()?;
        for (message, answer) in answers {
            message.ack_with(answer).await.map_err(Error::from_boxed)?;
        }
    }

    if repeated > 0 {
        tracing::info!("{repeated} orders came again");
    }
    if args.limit.is_some() {
        writeln!(out, "{}", tally.summary("orders"))?;
        out.flush()?;
    }
    // Sent is not received: without this the last acknowledgements go with the process, and the
    // server delivers once more what was printed.
    if let Err(error) = common::close(&client).await {
        tracing::warn!("{error:#}: the orders printed last may come again");
    }
    Ok(())
}
