//! Answers `math.sum` as `math-server` does, and can be found and watched: a service of the
//! Services API.
//!
//! ```sh
//! cargo run -p rpc --bin math-service          # terminal 1, and as many more as you like
//! cargo run -p rpc --bin math-client -- 17 25  # terminal 2
//! nats service stats math                      # terminal 3: the official command-line client
//! ```

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use async_nats::{PublishError, Subject};
use clap::Parser;
use common::{CancellationToken, Connection, Output};
use futures::StreamExt;
use rpc::{QUEUE_GROUP, Replies, SUBJECT, Service};

/// How many requests are handled at once. Further ones wait in the subscription.
const HANDLERS: usize = 256;

/// Adds two numbers on request, and says what it is and how often it was called.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
}

fn main() -> ExitCode {
    common::run(serve)
}

async fn serve(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("math-service", &stop).await?;
    nats.log_denied_publishes(); // only replies, to subjects that the clients choose
    // The subscription of `math-server`: both kinds can serve side by side.
    let requests = nats.queue_subscribe(SUBJECT, QUEUE_GROUP.into()).await?;
    // What makes it a service: it answers `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`.
    let service = Service::start(&nats).await?;
    nats.round_trip().await?;
    let mut out = Output::new();
    let waiting = format!("waiting for requests on {SUBJECT}, as the service math");
    out.line(waiting).await?;

    // From here on it is `math-server`, except that each request is counted.
    let replies = Replies::new(&nats);
    nats.drain_on_stop(requests)
        .for_each_concurrent(HANDLERS, async |request| {
            if let Some(reply_to) = rpc::reply_subject(&request) {
                let reply = reply(&nats, &service, reply_to, &request.payload);
                replies.send(reply).await;
            }
        })
        .await;
    let taken = replies.close().await?;
    out.line(format!("took {taken} requests")).await?;
    out.flush().await
}

async fn reply(
    nats: &Connection,
    service: &Service,
    reply_to: Subject,
    request: &[u8],
) -> Result<(), PublishError> {
    let begun = Instant::now();
    let answer = rpc::answer(request);
    service.count(begun.elapsed(), answer.as_ref().err());
    match answer {
        Ok(sum) => nats.publish(reply_to, sum.into()).await,
        Err(refusal) => {
            let headers = rpc::error_headers(&refusal);
            nats.publish_with_headers(reply_to, headers, "".into()).await
        }
    }
}
