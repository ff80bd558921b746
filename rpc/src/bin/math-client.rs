//! Asks for a sum: the calling half of request and reply.
//!
//! ```sh
//! cargo run -p rpc --bin math-client -- 17 25
//! cargo run -p rpc --bin math-client                                           # random numbers
//! cargo run -p rpc --bin math-client -- --count 10000 --concurrency 64 --quiet # many at once
//! ```

use std::io::{Write, stdout};
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail};
use async_nats::service::{NATS_SERVICE_ERROR, NATS_SERVICE_ERROR_CODE};
use async_nats::{Client, Message, Request, RequestErrorKind};
use clap::Parser;
use common::payload::{self, SumReply, SumRequest};
use futures::{StreamExt, stream};
use hdrhistogram::Histogram;
use rpc::SUBJECT;
use tokio::time::timeout;

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
    /// How many requests to send
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// How many of them to have on their way at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: u32,
    /// How long to wait for each reply
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Print no line for each reply
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    let args: Args = common::parse();
    // Lines can wait in a full pipe, and replies have to be read all the same.
    if args.quiet {
        common::run(ask(args))
    } else {
        common::run_multi_thread(ask(args))
    }
}

async fn ask(args: Args) -> Result<()> {
    let client = args.nats.connect("math-client").await?;
    let mut times = Histogram::<u64>::new(3)?;
    let mut failures = Vec::new();
    let (mut failed, started) = (0_u64, Instant::now());

    // Each request is a future, so having many on their way takes no threads: they share the one
    // connection, and replies come in whatever order the servers are done.
    let requests = stream::iter(0..args.count).take_until(common::shutdown());
    let replies = requests
        .map(|_| {
            let random = || rand::random_range(-1000..=1000);
            let (x, y) = (args.x.unwrap_or_else(random), args.y.unwrap_or_else(random));
            let asked = Instant::now();
            let reply = sum(&client, SumRequest { x, y }, args.timeout);
            async move { (x, y, reply.await, asked.elapsed()) }
        })
        .buffer_unordered(usize::try_from(args.concurrency)?);
    let mut replies = pin!(replies);
    while let Some((x, y, reply, took)) = replies.next().await {
        match reply {
            Ok(result) => {
                times.record(u64::try_from(took.as_micros())?)?;
                if !args.quiet {
                    writeln!(stdout(), "{x} + {y} = {result}")?;
                }
            }
            Err(error) => {
                failed += 1;
                // One of each kind says enough.
                let error = format!("{error:#}");
                if !failures.contains(&error) {
                    failures.push(error);
                }
            }
        }
    }

    if args.count != 1 {
        let summary = common::summary(times.len(), "requests", started.elapsed());
        let [p50, p99] = [0.50, 0.99].map(|share| times.value_at_quantile(share));
        writeln!(stdout(), "{summary}, p50 {p50} µs, p99 {p99} µs")?;
    }
    let failures = failures.join("; ");
    match (failed, args.count) {
        (0, _) => Ok(()),
        // Told to stop, it owes nobody the rest.
        _ if common::is_shutting_down() => {
            tracing::warn!("{failed} requests failed until it was stopped: {failures}");
            Ok(())
        }
        (_, 1) => bail!("{}: {failures}", args.nats),
        (_, count) => bail!(
            "{}: {failed} of {count} requests failed: {failures}",
            args.nats
        ),
    }
}

/// Looks like a call, and is two messages: one to `math.sum`, and one back to a subject that only
/// we listen to. Each can be lost, so there is no waiting without an end.
async fn sum(client: &Client, request: SumRequest, patience: Duration) -> Result<i64> {
    let payload = serde_json::to_vec(&request)?.into();
    // The library's time-out begins when the request is in its buffer. While the server is away,
    // that can be full: ours begins now.
    let request = Request::new().payload(payload).timeout(None);
    let lost = common::lost();
    let reply = tokio::select! {
        biased;
        reply = timeout(patience, client.send_request(SUBJECT, request)) => reply,
        // Replies go to a connection, and this one is no more.
        () = lost => bail!(
            "the connection was lost before a reply came; the request may have been handled: try again if that does no harm"
        ),
    };
    let reply = match reply {
        Ok(Ok(reply)) => reply,
        // The server itself says so, at once: it knows who has subscribed.
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => bail!(
            "nobody answers {SUBJECT}; start a server with `cargo run -p rpc --bin math-server`"
        ),
        Ok(Err(error)) => return Err(Error::new(error).context("cannot send the request")),
        // Somebody may have taken the request, and may even have done what it asks for.
        Err(_) => bail!(
            "no reply within {}; the server that took the request may be slow or gone: try again, or allow more with --timeout",
            humantime::format_duration(patience)
        ),
    };
    result(&reply)
}

/// To NATS, an error reply is a reply like any other: it shows in the headers.
fn result(reply: &Message) -> Result<i64> {
    if let Some(headers) = &reply.headers
        && let Some(code) = headers.get(NATS_SERVICE_ERROR_CODE)
    {
        let why = headers
            .get(NATS_SERVICE_ERROR)
            .map_or("", |why| why.as_str());
        bail!("the server refuses, {code}: {why}; ask for something else");
    }
    let reply: SumReply = payload::parse(&reply.payload)
        .with_context(|| format!("the reply is not a sum; see what else answers {SUBJECT}"))?;
    Ok(reply.result)
}
