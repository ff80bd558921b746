//! The first version of `job-admin`: puts all dead jobs back into the queue.
//!
//! ```sh
//! cargo run -p jobs --example first-job-admin
//! ```
//!
//! The stream of the dead jobs is job-worker's: first-job-worker has none.
//!
//! What it does not survive:
//!
//! - A job that dies again meanwhile: its new dead letter is purged with the old ones, and the job is
//!   lost.
//! - A dead letter that is no job: it ends with an error, in the middle. Those before are in the queue
//!   again, and dead, too.
//!
//! The service, src/bin/job-admin.rs, survives all of this.

use std::io::{Write, stdout};

use async_nats::jetstream::{self, consumer::pull};
use futures::StreamExt;
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("nats://localhost:4222".into());
    let jetstream = jetstream::new(async_nats::connect(url).await?);

    let stream = jetstream.get_stream("jobs_dead").await?;
    let count = usize::try_from(stream.cached_info().state.messages)?;
    let consumer = stream.create_consumer(pull::OrderedConfig::default()).await?;
    let mut letters = consumer.messages().await?.take(count);
    while let Some(letter) = letters.next().await {
        let letter = letter?;
        let job: Value = serde_json::from_slice(&letter.payload)?;
        let id = job["job_id"].as_str().ok_or("a job without an id")?;
        let kind = job["kind"].as_str().ok_or("a job without a kind")?;
        let key = job["key"].as_str().unwrap_or(id);
        let subject = format!("jobs.new.{kind}.{key}");
        jetstream.publish(subject, letter.payload.clone()).await?.await?;
        writeln!(stdout(), "{id} is in the queue again")?;
    }
    stream.purge().await?;
    Ok(())
}
