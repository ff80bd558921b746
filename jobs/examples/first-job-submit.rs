//! The first version of `job-submit`: stores a job in a work queue.
//!
//! ```sh
//! cargo run -p jobs --example first-job-worker             # terminal 1
//! cargo run -p jobs --example first-job-submit -- email    # terminal 2; or: -- report '{}' my-id
//! ```
//!
//! What it does not survive:
//!
//! - A lost acknowledgement: it ends with an error, and the job may be stored. Submitted again it is
//!   stored twice, because it has no message id.
//! - Many jobs: it waits a round trip for each.
//!
//! The service, src/bin/job-submit.rs, survives all of this.

use std::io::{Write, stdout};
use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::jetstream::{self, stream};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("nats://localhost:4222".into());
    let jetstream = jetstream::new(async_nats::connect(url).await?);
    let config = stream::Config {
        name: "jobs".into(),
        subjects: vec!["jobs.new.>".into(), "jobs.sched.>".into()],
        // nats-server deletes a job when it is acknowledged.
        retention: stream::RetentionPolicy::WorkQueue,
        // For the services: delayed jobs, and jobs in order for each key.
        allow_message_schedules: true,
        allow_rollup: true,
        subject_transform: Some(stream::SubjectTransform {
            source: "jobs.new.*.*".into(),
            destination: "jobs.new.{{wildcard(1)}}.{{partition(32,2)}}.{{wildcard(2)}}".into(),
        }),
        ..Default::default()
    };
    jetstream.get_or_create_stream(config).await?;

    let mut args = std::env::args().skip(1);
    let kind = args.next().unwrap_or("email".into());
    let details: Value = serde_json::from_str(&args.next().unwrap_or("{}".into()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let id = args.next().unwrap_or(format!("{now:016x}"));
    let job = json!({ "job_id": id, "kind": kind, "args": details });
    let sent = jetstream.publish(format!("jobs.new.{kind}.{id}"), job.to_string().into());
    // The first `await` sends the job. The second one waits until nats-server has stored it.
    let stored = sent.await?.await?;
    writeln!(stdout(), "{id} stored as number {}", stored.sequence)?;
    Ok(())
}
