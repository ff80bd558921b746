//! The streams and consumers of the queue.

use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{
    Config, RetentionPolicy, StorageType, Stream, SubjectTransform,
};
use common::jetstream::{Refused, create_stream};

use crate::job::{Kind, Order};

/// The stream of the jobs that are not done yet.
pub const STREAM: &str = "jobs";
/// The stream of the jobs that are not tried any more.
pub const DEAD: &str = "jobs_dead";
/// Jobs with the same key are in the same partition. So many jobs of a kind with order can run at a
/// time, in all workers together.
pub const PARTITIONS: u32 = 32;
/// A job is delivered again, to any worker, if its worker is silent for this long.
pub const ACK_WAIT: Duration = Duration::from_secs(5);
/// nats-server delivers no more jobs of a kind without order while this many are unacknowledged.
const MAX_ACK_PENDING: i64 = 20_000;
/// nats-server recognises a job id that is submitted again for this long. Later, the worker's
/// database does.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Opens the stream of the jobs, or creates it.
///
/// # Errors
///
/// If it exists with other settings. If it `needs_schedules`, and nats-server does not support schedules.
pub async fn open_jobs(jetstream: &Context, needs_schedules: bool) -> Result<Stream> {
    let config = Config {
        name: STREAM.into(),
        subjects: vec!["jobs.new.>".into(), "jobs.sched.>".into()],
        // A job that is acknowledged is deleted, and each has one consumer.
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        duplicate_window: DUPLICATE_WINDOW,
        allow_message_schedules: true,
        // nats-server sets it if schedules are allowed.
        allow_rollup: true,
        subject_transform: Some(SubjectTransform {
            source: "jobs.new.*.*".into(),
            destination: format!(
                "jobs.new.{{{{wildcard(1)}}}}.{{{{partition({PARTITIONS},2)}}}}.{{{{wildcard(2)}}}}"
            ),
        }),
        ..Default::default()
    };
    let stream = create_stream(jetstream, &config).await?;
    // An older nats-server ignores the setting without a word.
    ensure!(
        !needs_schedules || stream.cached_info().config.allow_message_schedules,
        Refused::because("this nats-server cannot delay jobs: version 2.12 or later can".into())
    );
    Ok(stream)
}

/// Opens the stream of the dead jobs, or creates it.
///
/// # Errors
///
/// If it exists with other settings.
pub async fn open_dead(jetstream: &Context) -> Result<Stream> {
    let config = Config {
        name: DEAD.into(),
        subjects: vec!["jobs.dead.>".into()],
        // A job that dies again replaces itself.
        max_messages_per_subject: 1,
        storage: StorageType::File,
        duplicate_window: DUPLICATE_WINDOW,
        ..Default::default()
    };
    create_stream(jetstream, &config).await
}

/// The settings of the consumers of a kind: one, or one for each partition if it has an order.
#[must_use]
pub fn consumers(kind: Kind) -> Vec<pull::Config> {
    let consumer = |name: String, filter_subject: String, max_ack_pending| pull::Config {
        durable_name: Some(name),
        filter_subject,
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        // The worker counts the attempts, and ends them: a message that has reached a limit of
        // nats-server would stay in the stream, and no worker would be offered it.
        max_deliver: -1,
        max_ack_pending,
        ..Default::default()
    };
    match kind.order() {
        Order::Batches | Order::Singly => {
            vec![consumer(kind.to_string(), format!("jobs.new.{kind}.>"), MAX_ACK_PENDING)]
        }
        // The next job of a partition is delivered when this one is acknowledged.
        Order::PerKey => (0..PARTITIONS)
            .map(|number| {
                consumer(format!("{kind}-{number}"), format!("jobs.new.{kind}.{number}.>"), 1)
            })
            .collect(),
    }
}
