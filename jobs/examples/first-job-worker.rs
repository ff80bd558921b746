//! The first version of `job-worker`: does jobs, and leaves failed ones to nats-server, which
//! delivers a job at most five times.
//!
//! ```sh
//! cargo run -p jobs --example first-job-worker             # terminal 1
//! cargo run -p jobs --example first-job-submit -- email    # terminal 2
//! ```
//!
//! What it does not survive:
//!
//! - A service that is away for a moment: the five attempts are over within milliseconds. Then the job
//!   stays in the stream for ever, and no program is offered it.
//! - A job that takes longer than `ack_wait`: it is delivered again while it runs, and done twice.
//! - A job that kills its worker: five kills, then it is stuck like the others.
//! - A job that is not due yet: its consumer has no filter, so it gets the schedule itself, and does
//!   the job at once.
//! - A message that is no job: it ends with an error, and so does the next worker.
//! - A worker that is killed: later jobs with the same key overtake its own.
//!
//! The service, src/bin/job-worker.rs, survives all of this.

use std::io::{Write, stdout};
use std::time::{Duration, SystemTime};

use async_nats::jetstream::{self, AckKind, consumer::pull};
use futures::StreamExt;
use serde_json::Value;
use tokio::time::sleep;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("nats://localhost:4222".into());
    let jetstream = jetstream::new(async_nats::connect(url).await?);

    let stream = jetstream.get_stream("jobs").await?;
    let config = pull::Config {
        durable_name: Some("workers".into()),
        ack_wait: Duration::from_secs(5),
        max_deliver: 5,
        ..Default::default()
    };
    let consumer = stream.get_or_create_consumer("workers", config).await?;

    let mut messages = consumer.messages().await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        let job: Value = serde_json::from_slice(&message.payload)?;
        let id = job["job_id"].as_str().ok_or("a job without an id")?;
        let time = |name| Duration::from_secs_f64(job["args"][name].as_f64().unwrap_or(0.0));
        sleep(time("seconds")).await;
        if job["kind"] == "poison" {
            std::process::abort();
        }
        // The service that the job needs is away for a while after the job was submitted.
        let is_away = SystemTime::now() < message.info()?.published + time("away");
        let fails = job["kind"] == "bad" || is_away;
        writeln!(stdout(), "{id} {}", if fails { "again" } else { "done" })?;
        message.ack_with(if fails { AckKind::Nak(None) } else { AckKind::Ack }).await?;
    }
    Ok(())
}
