//! What job-admin shows, and what it puts back.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use async_nats::jetstream::stream::Config;
use job_queue::dead;

use crate::support::Queue;

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_dead_jobs_that_are_retried_at_once_are_each_dead_once_more() -> Result<()> {
    let queue = Queue::start()?;
    let _worker = queue.worker("--quiet")?;
    queue.submit("bad --count 500 --id b --quiet")?;
    queue.until_left(0)?;
    let sequences = async || -> Result<BTreeMap<String, u64>> {
        Ok(queue.dead().await?.into_iter().map(|(id, letter)| (id, letter.sequence)).collect())
    };
    let before = sequences().await?;
    assert_eq!(before.len(), 500);
    let lines = queue.admin("retry --all")?;
    assert_eq!(lines.last().context("no line")?, "500 jobs are in the queue again");
    queue.until_left(0)?;
    // They die while they are being retried: each letter is a new one, and none is deleted for an
    // older one.
    let after = sequences().await?;
    assert!(after.keys().eq(before.keys()), "{} are left", after.len());
    assert!(after.iter().all(|(id, sequence)| sequence > &before[id]));
    assert!(queue.effects()?.is_empty());
    Ok(())
}

#[test]
fn a_dead_job_is_shown_with_its_reason_and_can_be_dropped() -> Result<()> {
    let queue = Queue::start()?;
    let mut worker = queue.worker("")?;
    queue.submit("bad --id b")?;
    worker.expect("b dead (attempts: 1): it can never succeed")?;
    let lines = queue.admin("dead")?;
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].starts_with("b bad dead: it can never succeed (attempts: 1, first 20"),
        "{lines:?}"
    );
    let shown = queue.admin("show b")?;
    let expected = [
        "id        b",
        "kind      bad",
        "state     dead",
        "reason    it can never succeed",
        "attempts  1",
        "first     20",
        "last      20",
        "worker    worker-",
        r#"payload   {"job_id":"b","kind":"bad","args":{}}"#,
    ];
    assert_eq!(shown.len(), expected.len());
    for (line, start) in shown.iter().zip(expected) {
        assert!(line.starts_with(start), "{line}");
    }
    assert_eq!(queue.admin("drop b")?, ["b is dropped"]);
    assert!(queue.admin("dead")?.is_empty());
    for args in ["drop b", "retry b", "show b"] {
        let ended = queue.admin_ends(args)?;
        assert_eq!(ended.code(), Some(1), "{args}");
        assert!(ended.stderr[0].contains("job b"), "{ended:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_can_be_deleted_by_two_programs() -> Result<()> {
    let queue = Queue::start()?;
    let _worker = queue.worker("")?;
    queue.submit("bad --id b")?;
    queue.until_left(0)?;
    let sequence = queue.dead().await?["b"].sequence;
    let stream = queue.jetstream().await?.get_stream("jobs_dead").await?;
    dead::remove(&stream, sequence).await?;
    dead::remove(&stream, sequence).await?;
    assert!(queue.dead().await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_cannot_be_deleted_is_an_error() -> Result<()> {
    let queue = Queue::start()?;
    let _worker = queue.worker("")?;
    queue.submit("bad --id b")?;
    queue.until_left(0)?;
    let jetstream = queue.jetstream().await?;
    let mut stream = jetstream.get_stream("jobs_dead").await?;
    let config = Config { deny_delete: true, ..stream.info().await?.config.clone() };
    jetstream.update_stream(config).await?;
    let sequence = queue.dead().await?["b"].sequence;
    assert!(dead::remove(&stream, sequence).await.is_err());
    let ended = queue.admin_ends("drop b")?;
    assert_eq!((ended.code(), ended.stderr.len()), (Some(1), 1), "{ended:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_runs_is_delayed_or_matched_by_no_consumer_is_listed() -> Result<()> {
    let queue = Queue::start()?;
    let _worker = queue.worker("--kinds report --concurrency 1")?;
    queue.submit("report {\"seconds\":60} --id r --count 2")?;
    queue.submit("email --id later --delay 1h")?;
    let unknown = queue.submit("nosuch --id stray")?;
    assert!(unknown.stderr[0].contains("unknown kind \"nosuch\"; there are: email"), "{unknown:?}");
    queue.publish("jobs.new.report", "no key, so no partition").await?;
    queue.server.monitor_until("/jsz?consumers=1", |jsz| {
        jsz.to_string().contains(r#""num_ack_pending":1"#)
    })?;
    let lines = queue.admin("list")?;
    assert_eq!(lines[..2], ["r-1 report in flight", "r-2 report waiting"]);
    assert!(lines[2].starts_with("later email delayed until 20"), "{lines:?}");
    assert_eq!(lines[3], "stray nosuch matched by no consumer");
    assert_eq!(lines[4], "report report matched by no consumer");
    assert_eq!(lines.len(), 5);

    let lines = queue.admin("stats")?;
    assert_eq!(lines[0], "kind       waiting  in flight     dead");
    assert_eq!(lines[1], "report           1          1        0");
    assert_eq!(lines[2], "delayed 1, matched by no consumer 2");

    let lines = queue.admin("sweep")?;
    assert!(lines[0].starts_with("jobs.new.nosuch.") && lines[0].contains(".stray: "), "{lines:?}");
    assert!(lines[1].starts_with("jobs.new.report: "), "{lines:?}");
    assert_eq!(lines[2], "2 jobs wait for a worker of another kind, or for ever");

    assert_eq!(queue.admin("drop later")?, ["later is dropped"]);
    assert_eq!(queue.admin("stats")?[2], "delayed 0, matched by no consumer 2");
    Ok(())
}

#[test]
fn without_a_queue_there_is_one_clear_line() -> Result<()> {
    let queue = Queue::start()?;
    let ended = queue.admin_ends("list")?;
    assert_eq!((ended.code(), ended.stderr.len()), (Some(1), 1), "{ended:?}");
    assert!(ended.stderr[0].contains("stream not found"), "{ended:?}");
    Ok(())
}

#[test]
fn the_table_refreshes_itself_until_ctrl_c() -> Result<()> {
    let queue = Queue::start()?;
    queue.submit("email --delay 1h")?;
    let mut watch = queue.watch()?;
    watch.expect("delayed 1,")?;
    queue.submit("email --delay 1h")?;
    watch.expect("delayed 2,")?;
    assert!(watch.stop()?.success());
    Ok(())
}
