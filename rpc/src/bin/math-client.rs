//! Asks for a sum: the calling half of request and reply.
//!
//! ```sh
//! cargo run -p rpc --bin math-client -- 17 25
//! cargo run -p rpc --bin math-client                                           # random numbers
//! cargo run -p rpc --bin math-client -- --count 10000 --concurrency 64 --quiet # many at once
//! ```

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use async_nats::{Request, RequestErrorKind};
use clap::Parser;
use common::payload::SumRequest;
use common::{CancellationToken, Connection, Output};
use rpc::load::{self, LoadArgs};
use rpc::{NoResponders, SUBJECT};
use tokio::time::{Instant, timeout_at};

/// A server may have taken the request, and may even have done what it asks for.
const MAYBE_HANDLED: &str = "the request may have been handled; try again if that does no harm";

/// Asks for the sum of two numbers.
#[derive(Parser)]
#[command(version, allow_negative_numbers = true)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    /// A whole number of 64 bits [default: one drawn at random, for each request]
    #[arg(requires = "y")]
    x: Option<i64>,
    /// Another one
    y: Option<i64>,
    #[command(flatten)]
    load: LoadArgs,
}

fn main() -> ExitCode {
    common::run(ask)
}

async fn ask(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("math-client", &stop).await?;
    nats.give_up_if_refused();
    let random = || rand::random_range(-1000..=1000);
    let draw = || SumRequest { x: args.x.unwrap_or_else(random), y: args.y.unwrap_or_else(random) };
    if args.load.count != 1 {
        let ask = async |numbers, deadline| sum(&nats, numbers, deadline).await;
        return load::run(args.load, &nats, draw, ask).await;
    }
    let numbers = draw();
    let reply = sum(&nats, numbers, Instant::now() + args.load.timeout).await;
    nats.permitted()?;
    let sum = reply.with_context(|| nats.servers().to_owned())?;
    let mut out = Output::new();
    let SumRequest { x, y } = numbers;
    out.line(format!("{x} + {y} = {sum}")).await?;
    out.flush().await
}

/// Looks like a call, and is two messages: one to `math.sum`, and one back to a subject that only
/// this program listens to. Each can be lost, so the wait for the reply has a deadline.
async fn sum(nats: &Connection, numbers: SumRequest, deadline: Instant) -> Result<i64> {
    let disconnected = nats.disconnected();
    // One deadline for sending and waiting. The library's time-out starts only when the request is
    // in its buffer, and a full buffer takes time, too.
    let request = Request::new().payload(serde_json::to_vec(&numbers)?.into());
    let reply = nats.send_request(SUBJECT, request.timeout(None));
    let reply = tokio::select! {
        biased;
        reply = timeout_at(deadline, reply) => reply,
        why = disconnected => bail!("{why}: {MAYBE_HANDLED}"),
        () = rpc::given_up(nats.stop()) => bail!("stopped before a reply came: {MAYBE_HANDLED}"),
    };
    // The outer Result is the deadline's, the inner one the library's.
    match reply {
        // To NATS an error reply is a reply like any other: only its headers tell.
        Ok(Ok(reply)) => rpc::result(&reply),
        // nats-server says so, at once: it knows who has subscribed.
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => bail!(NoResponders),
        Ok(Err(error)) => Err(error).context("cannot send the request"),
        Err(_) => bail!("no reply in time: {MAYBE_HANDLED}, or allow more with --timeout"),
    }
}
