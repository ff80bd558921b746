//! Takes orders from a stream, prints each, and only then acknowledges it.
//!
//! ```sh
//! cargo run -p jetstream --bin order-publisher  # terminal 1, whether a consumer runs or not
//! cargo run -p jetstream --bin order-consumer   # terminal 2, now or tomorrow; or several
//! ```

use std::io::{BufWriter, Stdout, Write, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, anyhow, bail};
use async_nats::connection::State;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::{AckKind, Context, ContextBuilder, Message};
use clap::Parser;
use common::payload::Order;
use futures::{FutureExt, StreamExt};
use jetstream::recent::Recent;
use jetstream::refusal::{OFF, Refusal};
use jetstream::wire::Connection;
use jetstream::{DURABLE, PAUSE, STREAM, TIMEOUT, lines};
use tokio::time::{sleep, timeout};

/// Orders asked for at once. So many come a second time when this program is killed.
const BATCH: usize = 1_000;
/// How long the server waits until it has as many. Whatever is asked for is finished, so this is
/// how long an idle consumer takes to stop, too.
const EXPIRES: Duration = Duration::from_secs(1);
/// What is not acknowledged for so long, the server delivers again, to whoever asks.
const ACK_WAIT: Duration = Duration::from_secs(5);
/// Unacknowledged orders of all consumers together; beyond that, the server delivers none.
const MAX_ACK_PENDING: i64 = 10_000;
/// Printed and acknowledged together.
const CHUNK: usize = 250;

/// Takes orders from the stream `playgrnd_stream`, as its consumer `order_processor`.
#[derive(Parser)]
struct Args {
    /// Stop after so many orders
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    limit: u64,
    /// Print no line for each order
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    nats: common::NatsArgs,
}

fn main() -> ExitCode {
    common::run(order_consumer(Args::parse()))
}

async fn order_consumer(args: Args) -> Result<()> {
    let client = args.nats.connect("order-consumer").await?;
    let jetstream = ContextBuilder::new().timeout(TIMEOUT).build(client.clone());
    let mut handler = Handler {
        out: BufWriter::new(stdout()),
        quiet: args.quiet,
        recent: Recent::default(),
        printed: 0,
        repeated: 0,
    };
    let (mut opened, mut start) = (false, None);
    'open: loop {
        let consumer = tokio::select! {
            biased;
            () = common::shutdown() => break,
            consumer = open(&jetstream, !opened) => {
                consumer.with_context(|| format!("cannot take orders from {}", args.nats))?
            }
        };
        let info = consumer.cached_info();
        if !opened {
            opened = true;
            let waiting = info.num_pending + u64::try_from(info.num_ack_pending)?;
            writeln!(
                handler.out,
                "waiting for orders in {STREAM}: {waiting} are there"
            )?;
            handler.out.flush()?;
        } else if start.is_some() && info.delivered.consumer_sequence == 0 {
            tracing::warn!(
                "{DURABLE} was gone and is created again: it begins with the first order that is there"
            );
        }

        // One batch after the other, each to its end: what the server has sent is printed and
        // acknowledged. Leaving in the middle would leave the rest to wait for ACK_WAIT.
        while handler.printed < args.limit {
            if common::shutdown().now_or_never().is_some() {
                break 'open;
            }
            let connection = Connection::of(&client);
            let left = usize::try_from(args.limit - handler.printed).unwrap_or(BATCH);
            let batch = consumer
                .batch()
                .max_messages(left.min(BATCH))
                .expires(EXPIRES);
            let mut batch = batch.messages().await?.ready_chunks(CHUNK);
            loop {
                let messages = match timeout(PAUSE, batch.next()).await {
                    Ok(Some(messages)) => messages,
                    Ok(None) => break,
                    // The request has gone with the connection on which it was sent.
                    Err(_) if connection.is_lost() => continue 'open,
                    Err(_) => continue,
                };
                start.get_or_insert_with(Instant::now);
                let mut answers = Vec::with_capacity(messages.len());
                let mut failed = None;
                for message in messages {
                    match message {
                        Ok(message) => answers.push((handler.handle(&message)?, message)),
                        Err(error) => failed = Some(error),
                    }
                }
                // Printed first: whoever acknowledges first and is killed in between has lost it.
                handler.out.flush()?;
                for (answer, message) in answers {
                    message.ack_with(answer).await.map_err(Error::from_boxed)?;
                }
                // The consumer is gone, or its stream, or the server is stopping.
                if let Some(error) = failed {
                    tracing::debug!("{DURABLE}: {error}");
                    sleep(PAUSE).await;
                    continue 'open;
                }
            }
        }
        break;
    }

    if handler.repeated > 0 {
        tracing::info!("{} orders came again", handler.repeated);
    }
    if args.limit < u64::MAX {
        let elapsed = start.map_or(Duration::ZERO, |start| start.elapsed());
        let summary = common::summary(handler.printed, "orders", elapsed);
        writeln!(handler.out, "{summary}")?;
        handler.out.flush()?;
    }
    // Sent is not received: without this the last acknowledgements go with the process, and the
    // server delivers once more what was printed.
    let closed = match client.connection_state() {
        State::Connected => common::close(&client).await,
        _ => Err(anyhow!("the server is away")),
    };
    if let Err(error) = closed {
        tracing::warn!("{error}: the orders printed last may come again");
    }
    Ok(())
}

/// Creates the consumer, or finds it as it was left. Waits for the stream.
async fn open(jetstream: &Context, at_start: bool) -> Result<PullConsumer> {
    let config = pull::Config {
        durable_name: Some(DURABLE.into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: MAX_ACK_PENDING,
        ..Default::default()
    };
    let mut told = false;
    loop {
        let opened = jetstream.create_consumer_on_stream(config.clone(), STREAM);
        let error = match opened.await {
            Ok(consumer) => return Ok(consumer),
            Err(error) => error,
        };
        match Refusal::from(&error) {
            Refusal::NoStream if !told => {
                told = true;
                tracing::info!(
                    "there is no stream {STREAM}: waiting until order-publisher creates it"
                );
            }
            // Only at the start: a server that is stopping has its JetStream off, too.
            Refusal::Off if at_start => bail!(OFF),
            Refusal::Lasting(advice) => {
                bail!("cannot create the consumer {DURABLE}: {error}{advice}")
            }
            _ => {}
        }
        sleep(PAUSE).await;
    }
}

/// What is done with each message: the part that is somebody's business.
struct Handler {
    out: BufWriter<Stdout>,
    quiet: bool,
    recent: Recent,
    printed: u64,
    repeated: u64,
}

impl Handler {
    /// Prints an order that is new, and says how the server is to be answered.
    fn handle(&mut self, message: &Message) -> Result<AckKind> {
        let info = message.info().map_err(Error::from_boxed)?;
        let order: Order = match serde_json::from_slice(&message.payload) {
            Ok(order) => order,
            // It will not parse next time either; left alone, it would come for ever.
            Err(error) => {
                let number = info.stream_sequence;
                tracing::warn!("number {number} is no order, it is terminated: {error}");
                return Ok(AckKind::Term);
            }
        };
        if self.recent.is_new(&order.order_id) {
            self.printed += 1;
            if !self.quiet {
                writeln!(self.out, "{}", lines::taken(&order, info.delivered))?;
            }
        } else {
            // Its acknowledgement did not arrive, or it was published once more.
            self.repeated += 1;
            if !self.quiet {
                let id = order.order_id.escape_debug();
                tracing::warn!("{id} came again: not printed twice");
            }
        }
        Ok(AckKind::Ack)
    }
}
