//! What happens to jobs when workers and nats-server are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use testkit::Signal;

use crate::support::{Queue, done, header};

#[tokio::test(flavor = "multi_thread")]
async fn each_of_20_000_jobs_has_one_effect_or_one_dead_letter_through_all_kills() -> Result<()> {
    let mut queue = Queue::start()?;
    let kinds = [
        ("email", 18_000, ""),
        ("invoice", 900, "--key k"),
        ("flaky", 500, r#"{"failures":1}"#),
        ("bad", 600, ""),
    ];
    let mut jobs = BTreeSet::new();
    for (kind, count, args) in kinds {
        queue.submit(&format!("{kind} {args} --id {kind} --count {count} --quiet"))?;
        jobs.extend((1..=count).map(|number| format!("{kind}-{number}")));
    }
    assert_eq!(jobs.len(), 20_000);
    let start = |queue: &Queue| queue.worker("");
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(start(&queue)?);
    }
    for round in 0..6 {
        let worker = &mut workers[round % 4];
        // By what it has done, not by time: on any machine it is in full flow.
        assert!(worker.wait_for(|lines| done(lines).len() > 300), "round {round}");
        if round % 3 == 2 {
            queue.server.kill()?;
            queue.server.restart()?;
        } else {
            worker.kill()?;
            *worker = start(&queue)?;
        }
    }
    queue.until_left(0)?;
    for worker in &mut workers {
        assert!(worker.stop()?.success());
    }
    assert_eq!(queue.each_once(&jobs).await?, 600);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_kills_its_worker_five_times_and_is_dead_and_its_neighbours_are_done() -> Result<()>
{
    let queue = Queue::start()?;
    queue.submit("poison --id p")?;
    let mut neighbours = BTreeSet::new();
    for number in 0..7 {
        queue.submit(&format!("report {{\"seconds\":0.2}} --id r{number} --quiet"))?;
        neighbours.insert(format!("r{number}"));
    }
    let mut deaths = 0;
    let mut worker = loop {
        let worker = queue.worker("")?;
        worker.wait_for(|lines| lines.iter().any(|line| line.starts_with("p dead")));
        if worker.is_running()? {
            break worker;
        }
        deaths += 1;
    };
    assert_eq!(deaths, 5);
    queue.until_left(0)?;
    assert!(worker.stop()?.success());
    let dead = queue.dead().await?;
    assert_eq!(dead.len(), 1);
    assert_eq!(&dead["p"].payload[..], br#"{"job_id":"p","kind":"poison","args":{}}"#);
    assert_eq!(header(&dead["p"].headers, "Job-Attempts")?, "5");
    assert!(header(&dead["p"].headers, "Job-Reason")?.contains("its worker died"));
    assert_eq!(queue.effects()?.into_iter().collect::<BTreeSet<_>>(), neighbours);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stopped_in_full_flow_leaves_nothing_that_waits_for_ack_wait() -> Result<()> {
    const JOBS: usize = 5_000;
    let queue = Queue::start()?;
    queue.submit(&format!("email --count {JOBS} --quiet"))?;
    let mut worker = queue.worker("")?;
    assert!(worker.wait_for(|lines| done(lines).len() > 500));
    let told = SystemTime::now();
    let ended = worker.stop()?;
    ensure!(ended.success() && ended.stderr.is_empty(), "{ended:?}");
    assert!(told.elapsed()? < Duration::from_secs(5));
    let left = JOBS - done(&ended.stdout).len();
    ensure!(left > 0, "it was not in full flow");
    assert_eq!(queue.effects()?.len(), JOBS - left);
    // Long before ACK_WAIT is over, another program gets all the others.
    assert_eq!(queue.delivered("email", left).await?, left);
    Ok(())
}

#[test]
fn a_worker_stopped_while_the_server_is_away_ends_in_time() -> Result<()> {
    let mut queue = Queue::start()?;
    queue.submit("email --count 20000 --quiet")?;
    let mut worker = queue.worker("")?;
    assert!(worker.wait_for(|lines| done(lines).len() > 1_000));
    queue.server.kill()?;
    worker.expect_stderr("lost the connection")?;
    let told = SystemTime::now();
    let ended = worker.stop()?;
    assert!(told.elapsed()? < Duration::from_secs(5));
    let is_unconfirmed = ended.stderr.iter().any(|line| line.contains("may come again"));
    assert_eq!(ended.code(), Some(i32::from(is_unconfirmed)), "{:?}", ended.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_delayed_jobs_are_not_early_and_not_late_through_a_restart() -> Result<()> {
    let mut queue = Queue::start()?;
    let _worker = queue.worker("--quiet")?;
    // What a thousand jobs take on this machine, now.
    let begun = Instant::now();
    queue.submit("email --count 1000 --id undelayed --quiet")?;
    queue.until_left(0)?;
    let baseline = begun.elapsed();
    queue.submit("email --delay 8s --count 1000 --id d --quiet")?;
    let stream = queue.jetstream().await?.get_stream("jobs").await?;
    // Many at a time: all are read before the first is due.
    let due = futures::stream::iter(1..=1000).map(async |number| {
        let subject = format!("jobs.sched.d-{number}");
        let message = stream.get_last_raw_message_by_subject(&subject).await?;
        let at = header(&message.headers, "Nats-Schedule")?.trim_start_matches("@at ").to_owned();
        anyhow::Ok((format!("d-{number}"), humantime::parse_rfc3339(&at)?))
    });
    let due: BTreeMap<_, _> = due.buffer_unordered(100).try_collect().await?;
    queue.server.kill()?;
    queue.server.restart()?;
    let restarted = SystemTime::now();
    queue.until_left(0)?;
    let mut latest = Duration::ZERO;
    let mut times = queue.times()?;
    times.retain(|id, _| due.contains_key(id));
    assert_eq!(times.len(), 1000);
    for (id, done_at) in times {
        let done_at = humantime::parse_rfc3339(&done_at)?;
        // Times in the database have milliseconds.
        let late = (done_at + Duration::from_millis(1)).duration_since(due[&id]);
        let late = late.with_context(|| format!("{id} was done before it was due"))?;
        // A machine so slow that the restart took until then owes nothing.
        if restarted < due[&id] {
            latest = latest.max(late);
        }
    }
    writeln!(
        std::io::stderr(),
        "1000 delayed jobs: at most {latest:?} late, {baseline:?} if not delayed"
    )?;
    assert!(latest < Duration::from_secs(1) + 2 * baseline, "{latest:?}");
    Ok(())
}

#[test]
fn an_idle_worker_works_again_soon_after_the_servers_return() -> Result<()> {
    let mut queue = Queue::start()?;
    let mut worker = queue.worker("")?;
    queue.submit("email --id before")?;
    worker.expect("before done")?;
    queue.server.kill()?;
    worker.expect_stderr("lost the connection")?;
    queue.server.restart()?;
    queue.submit("email --id after")?;
    queue.submit("invoice --id after-2")?;
    // Each from a consumer of its own.
    let is_again =
        worker.wait_for(|lines| ["after", "after-2"].iter().all(|id| done(lines).contains(id)));
    ensure!(is_again, "{:?}", worker.stdout());
    worker.signal(Signal::TERM)?;
    assert!(worker.wait()?.success());
    Ok(())
}
