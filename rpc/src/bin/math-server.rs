//! Answers `math.sum`: the service half of request and reply.
//!
//! ```sh
//! cargo run -p rpc --bin math-server           # terminal 1, and as many more as you like
//! cargo run -p rpc --bin math-client -- 17 25  # terminal 2
//! ```

use std::process::ExitCode;

use anyhow::Result;
use async_nats::{PublishError, Subject};
use clap::Parser;
use common::{CancellationToken, Connection, Output};
use futures::StreamExt;
use rpc::{QUEUE_GROUP, Replies, SUBJECT};

/// How many requests are handled at once. Further ones wait in the subscription.
const HANDLERS: usize = 256;

/// Adds two numbers on request, and shares the requests with all other servers.
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
    let nats = args.nats.connect("math-server", &stop).await?;
    nats.log_denied_publishes(); // only replies, to subjects that the clients choose
    // Servers that name the same queue group share the requests. Start as many as you like: none
    // has to know of the others.
    let requests = nats.queue_subscribe(SUBJECT, QUEUE_GROUP.into()).await?;
    nats.round_trip().await?;
    let mut out = Output::new();
    out.line(format!("waiting for requests on {SUBJECT}")).await?;

    // After Ctrl-C or SIGTERM, this loop goes on until all requests are answered that nats-server
    // has given to this program: it gives no request twice.
    // `replies` counts the requests, and those that got no reply.
    let replies = Replies::new(&nats);
    nats.drain_on_stop(requests)
        .for_each_concurrent(HANDLERS, async |request| {
            if let Some(reply_to) = rpc::reply_subject(&request) {
                replies.send(reply(&nats, reply_to, &request.payload)).await;
            }
        })
        .await;
    let taken = replies.close().await?;
    out.line(format!("took {taken} requests")).await?;
    out.flush().await
}

/// All handlers share one thread. A handler that computes for long needs
/// `tokio::task::spawn_blocking`.
async fn reply(nats: &Connection, reply_to: Subject, request: &[u8]) -> Result<(), PublishError> {
    match rpc::answer(request) {
        Ok(sum) => nats.publish(reply_to, sum.into()).await,
        // Without an error reply, the requester would wait for its time-out.
        Err(refusal) => {
            let headers = rpc::error_headers(&refusal);
            nats.publish_with_headers(reply_to, headers, "".into()).await
        }
    }
}
