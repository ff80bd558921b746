//! The order of jobs with the same key, and what a dead one means to its successors.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use testkit::{Program, Signal};

use crate::support::{ACK_WAIT, Queue, done};

/// Submits invoices `<key>-1`, `<key>-2` … for each of these keys.
fn submit(queue: &Queue, keys: &[&str], count: usize) -> Result<()> {
    for key in keys {
        queue.submit(&format!("invoice --key {key} --id {key} --count {count} --quiet"))?;
    }
    Ok(())
}

/// Stops a worker, but not in the middle of a transaction: it would keep the others from the database.
fn freeze(queue: &Queue, worker: &mut Program) -> Result<()> {
    let sql = queue.sql()?;
    sql.execute_batch("BEGIN IMMEDIATE")?;
    worker.suspend()?;
    Ok(sql.execute_batch("COMMIT")?)
}

/// Fails if a job was done before one with its key that was submitted earlier.
fn in_order(effects: &[String]) -> Result<()> {
    let mut last = BTreeMap::<_, usize>::new();
    for id in effects {
        let (key, number) = id.rsplit_once('-').context("no number")?;
        let number = number.parse()?;
        let before = last.insert(key, number).unwrap_or_default();
        ensure!(before < number, "{id} was done after {before}: {effects:?}");
    }
    Ok(())
}

#[test]
fn keys_keep_their_order_while_workers_and_server_are_killed_and_one_is_frozen() -> Result<()> {
    const KEYS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    const EACH: usize = 40;
    let mut queue = Queue::start()?;
    submit(&queue, &KEYS, EACH)?;
    let worker = |queue: &Queue| queue.worker("--work 50ms");
    let mut frozen = worker(&queue)?;
    let mut killed = worker(&queue)?;
    let mut steady = worker(&queue)?;
    assert!(frozen.wait_for(|lines| done(lines).len() > 10));
    freeze(&queue, &mut frozen)?;
    for round in 1..=3 {
        assert!(killed.wait_for(|lines| done(lines).len() > 5));
        killed.kill()?;
        killed = worker(&queue)?;
        if round == 2 {
            queue.server.kill()?;
            queue.server.restart()?;
        }
    }
    // The others do the jobs of the frozen worker when ACK_WAIT is over. Then it wakes up in the
    // middle of its own.
    queue.until_left(60)?;
    frozen.signal(Signal::CONT)?;
    queue.until_left(0)?;
    let effects = queue.effects()?;
    assert_eq!(effects.len(), KEYS.len() * EACH);
    in_order(&effects)?;
    for worker in [&mut frozen, &mut killed, &mut steady] {
        assert!(worker.stop()?.success());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_frozen_in_a_job_has_no_effect_when_it_wakes_up() -> Result<()> {
    let queue = Queue::start()?;
    // Longer than the test needs to freeze it, and less than ACK_WAIT.
    let mut frozen = queue.worker("--work 4s")?;
    queue.submit("invoice --key k --id first")?;
    queue.submit("invoice --key k --id second")?;
    queue.server.monitor_until("/jsz?consumers=1", |jsz| {
        jsz.to_string().contains(r#""num_ack_pending":1"#)
    })?;
    freeze(&queue, &mut frozen)?;
    let mut other = queue.worker("")?;
    other.expect("second done")?;
    frozen.signal(Signal::CONT)?;
    // It takes the next job of this key when it is through with the first one.
    other.stop()?;
    queue.submit("invoice --key k --id third")?;
    frozen.expect("third done")?;
    assert_eq!(done(&frozen.stop()?.stdout), ["third"]);
    assert_eq!(queue.effects()?, ["first", "second", "third"]);
    let sql = queue.sql()?;
    let by = |id: &str| {
        sql.query_row("SELECT worker FROM effects WHERE job_id = ?", [id], |row| {
            row.get::<_, String>(0)
        })
    };
    assert_eq!(by("first")?, format!("worker-{}", other.id()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_job_does_not_block_its_key() -> Result<()> {
    let queue = Queue::start()?;
    let mut worker = queue.worker("")?;
    queue.submit(r#"invoice {"cents":0} --key k --id first"#)?;
    queue.submit("invoice --key k --id second")?;
    worker.expect("first dead")?;
    worker.expect("second done")?;
    queue.until_left(0)?;
    assert_eq!(queue.effects()?, ["second"]);
    assert!(queue.dead().await?.contains_key("first"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_strict_successors_wait_until_the_dead_job_is_dropped_and_other_keys_do_not()
-> Result<()> {
    let queue = Queue::start()?;
    let mut worker = queue.worker("--strict")?;
    queue.submit(r#"invoice {"cents":0} --key k --id k-1"#)?;
    worker.expect("k-1 dead")?;
    for number in 2..=4 {
        queue.submit(&format!("invoice --key k --id k-{number}"))?;
    }
    worker.expect("k-4 again in 2s: it waits for")?;
    // Every other partition, and that of k too, goes on.
    submit(&queue, &["a", "b", "c", "d", "e", "f", "g", "h"], 40)?;
    queue.until_left(3)?;
    assert_eq!(queue.effects()?.len(), 8 * 40);
    // Not in the moment in which it is delivered again.
    let give_up = Instant::now() + 10 * ACK_WAIT;
    while !queue.admin("list")?.iter().any(|line| line.starts_with("k-2 invoice delayed until")) {
        ensure!(Instant::now() < give_up, "it is never delayed");
    }
    queue.admin("drop k-1")?;
    queue.until_left(0)?;
    let effects = queue.effects()?;
    assert_eq!(effects[320..], ["k-2", "k-3", "k-4"]);
    assert!(queue.dead().await?.is_empty());
    Ok(())
}

#[test]
fn with_strict_a_job_that_waits_and_is_dropped_does_not_hold_the_others_up() -> Result<()> {
    let queue = Queue::start()?;
    let mut worker = queue.worker("--strict")?;
    queue.submit(r#"invoice {"cents":0} --key k --id k-1"#)?;
    worker.expect("k-1 dead")?;
    queue.submit("invoice --key k --id k-2")?;
    queue.submit("invoice --key k --id k-3")?;
    worker.expect("k-3 again in 2s: it waits for")?;
    // It can be dropped while it is not due: not in the moment in which it is delivered again.
    let give_up = Instant::now() + 10 * ACK_WAIT;
    while !queue.admin_ends("drop k-2")?.success() {
        ensure!(Instant::now() < give_up, "it is never delayed");
    }
    queue.admin("drop k-1")?;
    queue.until_left(0)?;
    assert_eq!(queue.effects()?, ["k-3"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_strict_a_job_that_is_retried_comes_before_its_successors() -> Result<()> {
    let queue = Queue::start()?;
    queue.submit("invoice --key k --id k-1")?;
    // It dies with its workers, as its work takes longer than they live.
    for _ in 0..5 {
        let mut worker = queue.worker("--strict --work 1m")?;
        queue.until_begun(&format!("worker = 'worker-{}'", worker.id())).await?;
        worker.kill()?;
    }
    let mut worker = queue.worker("--strict")?;
    worker.expect(
        "k-1 dead (attempts: 5): attempt 5 did not end: its worker died or lost nats-server",
    )?;
    queue.submit("invoice --key k --id k-2")?;
    queue.submit("invoice --key k --id k-3")?;
    worker.expect("k-3 again")?;
    assert_eq!(queue.admin("retry k-1")?, ["k-1 is in the queue again"]);
    queue.until_left(0)?;
    assert_eq!(queue.effects()?, ["k-1", "k-2", "k-3"]);
    assert!(queue.dead().await?.is_empty());
    Ok(())
}
