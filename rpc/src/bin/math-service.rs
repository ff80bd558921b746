//! Answers `math.sum` as `math-server` does, and can be found and watched: a service of the
//! Services API.
//!
//! ```sh
//! cargo run -p rpc --bin math-service          # terminal 1, and as many more as you like
//! cargo run -p rpc --bin math-client -- 17 25  # terminal 2
//! nats service stats math                      # terminal 3: the official command-line client
//! ```

use std::cell::Cell;
use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use async_nats::{Client, Message};
use clap::Parser;
use futures::StreamExt;
use rpc::{HANDLERS, QUEUE_GROUP, SUBJECT, Service};

/// Adds two numbers for whoever asks, and tells what it is and what it did.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
}

fn main() -> ExitCode {
    common::run(serve(common::parse()))
}

async fn serve(args: Args) -> Result<()> {
    let client = args.nats.connect_responder("math-service").await?;

    // The same subscription as that of `math-server`: both kinds can serve side by side.
    let requests = client.queue_subscribe(SUBJECT, QUEUE_GROUP.into()).await?;
    // What makes it a service: it answers `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`.
    let service = Service::new(&client);
    let questions = service.subscribe(&client).await?;
    client.flush().await?;
    writeln!(
        stdout(),
        "waiting for requests on {SUBJECT}, as the service math"
    )?;

    // From here on it is `math-server`, but for counting.
    let requests = common::until_shutdown(&client, requests);
    let taken = Cell::new(0_u64);
    let handled = requests.for_each_concurrent(HANDLERS, async |request| {
        taken.update(|taken| taken + 1);
        reply(&service, &client, request).await;
    });
    tokio::select! {
        () = handled => {}
        ended = service.describe(&client, questions) => ended?,
    }
    common::close(&client).await?;
    writeln!(stdout(), "took {} requests", taken.get())?;
    Ok(())
}

async fn reply(service: &Service, client: &Client, request: Message) {
    let Some(reply_to) = request.reply else {
        tracing::debug!("a message without a reply subject");
        return;
    };
    let started = Instant::now();
    let (sent, error) = match rpc::answer(&request.payload) {
        Ok(sum) => (client.publish(reply_to, sum.into()).await, None),
        Err(error) => {
            let headers = rpc::error_headers(&error);
            let sent = client.publish_with_headers(reply_to, headers, "".into());
            (sent.await, Some(error))
        }
    };
    service.count(started.elapsed(), error);
    if let Err(error) = sent {
        tracing::warn!("cannot send a reply: {error}");
    }
}
