//! Answers `math.sum`: the service half of request and reply.
//!
//! ```sh
//! cargo run -p rpc --bin math-server           # terminal 1, and as many more as you like
//! cargo run -p rpc --bin math-client -- 17 25  # terminal 2
//! ```

use std::cell::Cell;
use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::Result;
use async_nats::{Client, Message};
use clap::Parser;
use futures::StreamExt;
use rpc::{HANDLERS, QUEUE_GROUP, SUBJECT};

/// Adds two numbers for whoever asks, together with all other servers.
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
    let client = args.nats.connect_responder("math-server").await?;

    // A service is a subscription. Those that name the same queue group share the requests: start
    // as many servers as you like, none has to know of the others.
    let requests = client.queue_subscribe(SUBJECT, QUEUE_GROUP.into()).await?;
    client.flush().await?;
    writeln!(stdout(), "waiting for requests on {SUBJECT}")?;

    // After SIGTERM this goes on until everything is answered that the server had given to us: it
    // gives no request twice, so its requester would wait in vain.
    let requests = common::until_shutdown(&client, requests);
    let taken = Cell::new(0_u64);
    // Many at a time, each as soon as it comes; beyond that the next one waits for one to be done.
    // A handler that computes for long would keep all others waiting: give it
    // `tokio::task::spawn_blocking`.
    let handled = requests.for_each_concurrent(HANDLERS, async |request| {
        taken.update(|taken| taken + 1);
        reply(&client, request).await;
    });
    handled.await;
    // The last replies are in the client's buffer.
    common::close(&client).await?;
    writeln!(stdout(), "took {} requests", taken.get())?;
    Ok(())
}

async fn reply(client: &Client, request: Message) {
    // Anybody can publish on `math.sum`. A request is a message that says where it wants its reply.
    let Some(reply_to) = request.reply else {
        tracing::debug!("a message without a reply subject");
        return;
    };
    let sent = match rpc::answer(&request.payload) {
        Ok(sum) => client.publish(reply_to, sum.into()).await,
        // Whoever sent it learns what is wrong with it. Silence would cost them a time-out.
        Err(error) => {
            tracing::debug!("{error}");
            let headers = rpc::error_headers(&error);
            client
                .publish_with_headers(reply_to, headers, "".into())
                .await
        }
    };
    // The subject is the requester's choice, and need not be one.
    if let Err(error) = sent {
        tracing::warn!("cannot send a reply: {error}");
    }
}
