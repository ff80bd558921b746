//! Answers `math.sum`: the service half of request and reply.
//!
//! ```sh
//! cargo run -p rpc --bin math-server           # terminal 1, and as many more as you like
//! cargo run -p rpc --bin math-client -- 17 25  # terminal 2
//! ```

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use async_nats::{Client, Message};
use clap::Parser;
use rpc::{QUEUE_GROUP, SUBJECT};
use tokio::sync::Semaphore;

/// How many requests are handled at once. The others wait in the subscription.
const HANDLERS: u32 = 256;

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
    let mut requests = common::until_shutdown(&client, requests);
    let handlers = Arc::new(Semaphore::new(HANDLERS as usize));
    let mut taken = 0_u64;
    loop {
        // First a free handler, then a request: otherwise a flood of them becomes one of tasks.
        let handler = Arc::clone(&handlers).acquire_owned().await?;
        let Some(request) = requests.next().await else {
            break;
        };
        taken += 1;
        let client = client.clone();
        tokio::spawn(async move {
            reply(&client, request).await;
            drop(handler);
        });
    }

    // When every handler is free again, every reply is on its way.
    let _ = handlers.acquire_many(HANDLERS).await?;
    common::close(&client).await?;
    writeln!(stdout(), "took {taken} requests")?;
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
