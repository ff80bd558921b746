//! Many requests at once, and how long they took.

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Result, bail};
use common::payload::SumRequest;
use common::{CancellationToken, Connection, Output};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use tokio::time::{Instant, sleep};

use crate::NoResponders;

/// Pause before a request is repeated that no server was there for.
const REPEAT_DELAY: Duration = Duration::from_millis(20);

/// Flags: how many requests, how many at once, how long each may take.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct LoadArgs {
    /// How many requests to send
    #[arg(long, default_value_t = 1)]
    pub count: u64,
    /// How many of them to have in flight at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub concurrency: u32,
    /// How long to wait for each reply
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Print no line for each reply
    #[arg(long)]
    pub quiet: bool,
}

/// Sends `count` requests, `concurrency` of them at once, and prints what came back and how long it
/// took. Told to stop, it sends no more, and waits for the replies to those in flight.
///
/// `draw` makes a request, `ask` sends it and waits for its reply until a deadline.
///
/// If a reply has come before and now no server is there, the request is repeated until its
/// deadline: when nats-server restarts, a requester can be back a moment before the server that
/// answers. The request was not handled, so repeating it is safe.
///
/// # Errors
///
/// If requests failed: how many, and why.
pub async fn run(
    args: LoadArgs,
    nats: &Connection,
    draw: impl Fn() -> SumRequest,
    ask: impl AsyncFn(SumRequest, Instant) -> Result<i64>,
) -> Result<()> {
    let mut out = Output::new();
    let mut times = Histogram::<u64>::new(3)?;
    let mut failures = Failures::default();
    let (begun, concurrency) = (Instant::now(), usize::try_from(args.concurrency)?);
    let was_there = Cell::new(false);

    let mut sent = 0;
    let mut in_flight = FuturesUnordered::new();
    loop {
        while sent < args.count && in_flight.len() < concurrency && !nats.stop().is_cancelled() {
            sent += 1;
            let request = draw();
            let asked = Instant::now();
            let reply = ask_again(&ask, request, asked + args.timeout, &was_there, nats.stop());
            in_flight.push(async move { (request, reply.await, asked.elapsed()) });
        }
        let Some((SumRequest { x, y }, reply, took)) = in_flight.next().await else {
            break;
        };
        match reply {
            Ok(sum) => {
                times.record(u64::try_from(took.as_micros())?)?;
                if !args.quiet {
                    out.line(format!("{x} + {y} = {sum}")).await?;
                }
            }
            Err(error) => failures.add(&error),
        }
    }

    let summary = common::summary(times.len(), "requests", begun.elapsed());
    let [p50, p99] = [0.50, 0.99].map(|share| times.value_at_quantile(share));
    out.line(format!("{summary}, p50 {p50} µs, p99 {p99} µs")).await?;
    out.flush().await?;
    nats.permitted()?;
    failures.report(nats.servers(), sent)
}

async fn ask_again(
    ask: &impl AsyncFn(SumRequest, Instant) -> Result<i64>,
    request: SumRequest,
    deadline: Instant,
    was_there: &Cell<bool>,
    stop: &CancellationToken,
) -> Result<i64> {
    let mut given_up = pin!(crate::given_up(stop));
    loop {
        let reply = ask(request, deadline).await;
        let Err(error) = &reply else {
            was_there.set(true);
            return reply;
        };
        if !error.is::<NoResponders>() || !was_there.get() {
            return reply;
        }
        if Instant::now() + REPEAT_DELAY >= deadline {
            // It does not come back: the next requests need not wait for it.
            was_there.set(false);
            return reply;
        }
        tokio::select! {
            () = sleep(REPEAT_DELAY) => {}
            () = &mut given_up => return reply,
        }
    }
}

/// How many requests failed, and one example of each way to fail.
#[derive(Default)]
struct Failures {
    count: u64,
    kinds: Vec<String>,
}

impl Failures {
    fn add(&mut self, error: &anyhow::Error) {
        self.count += 1;
        let kind = format!("{error:#}");
        if !self.kinds.contains(&kind) {
            self.kinds.push(kind);
        }
    }

    fn report(&self, servers: &str, sent: u64) -> Result<()> {
        if self.count > 0 {
            let kinds = self.kinds.join("; ");
            bail!("{servers}: {} of {sent} requests failed: {kinds}", self.count);
        }
        Ok(())
    }
}
