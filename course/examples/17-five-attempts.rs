//! 17 Five attempts in a moment
//!
//! A worker sends receipts. When the mail server restarts, which takes two
//! seconds, the worker gives the job back, and nats-server delivers it again.
//! It used to be endless, so a limit of five attempts was added. Since
//! then each restart of the mail server costs some receipts.
//!
//! Let the limit stand, and make five attempts last longer than a restart.

use std::time::Duration;

use async_nats::jetstream::{self, AckKind, consumer::pull};
use futures::StreamExt;
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("localhost:4222".into());
    let jetstream = jetstream::new(async_nats::connect(url).await?);
    let stream = jetstream.get_stream("jobs").await?;
    let config = pull::Config {
        durable_name: Some("workers".into()),
        ack_wait: Duration::from_secs(5),
        max_deliver: 5,
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await?;

    let mut messages = consumer.messages().await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        let attempt = message.info()?.delivered;
        let job: Value = serde_json::from_slice(&message.payload)?;
        let id = job["job_id"].as_str().unwrap_or_default();
        // The mail server is back after the second attempt.
        if job["kind"] == "flaky" && attempt <= 2 {
            println!("{id} again");
            message.ack_with(AckKind::Nak(None)).await?;
            continue;
        }
        println!("{id} done");
        message.ack().await?;
    }
    Ok(())
}
