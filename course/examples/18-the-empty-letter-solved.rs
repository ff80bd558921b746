//! 18 The empty letter
//!
//! What can never succeed is a dead letter: stored in another stream, for a
//! person to look at. The worker terminates the job, then fetches it by its
//! number, which is all that nats-server's advisory tells, and stores it.
//! The other stream is empty, and the jobs are gone.
//!
//! Keep the job: in which moment is it still there?

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::{self, AckKind, Message, consumer::pull};
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
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await?;

    let mut messages = consumer.messages().await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        let job: Value = serde_json::from_slice(&message.payload)?;
        let id = job["job_id"].as_str().unwrap_or_default();
        if job["kind"] == "bad" {
            println!("{id} dead");
            let subject = format!("jobs.dead.bad.{id}");
            let (headers, payload) =
                (headers(&message)?, message.payload.clone());
            let sent =
                jetstream.publish_with_headers(subject, headers, payload);
            sent.await?.await?;
            message.double_ack_with(AckKind::Term).await?;
            continue;
        }
        println!("{id} done");
        message.ack().await?;
    }
    Ok(())
}

fn headers(message: &Message) -> Result<HeaderMap, async_nats::Error> {
    let info = message.info()?;
    let mut headers = HeaderMap::new();
    headers.insert("Job-Reason", "it can never succeed");
    headers.insert("Job-Attempts", info.delivered.to_string());
    headers.insert("Job-First-At", info.published.to_string());
    headers.insert("Job-Last-At", info.published.to_string());
    headers.insert("Job-Worker", "worker");
    Ok(headers)
}
