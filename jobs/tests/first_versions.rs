//! What the first versions lose, double and get stuck with. The README states it; these tests measure
//! it on the very examples.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::{Link, Program, example};

use crate::support::{Queue, consumer, done};

impl Queue {
    fn first_worker(&self) -> Result<Program> {
        Program::spawn(&mut self.server.command(example("first-job-worker")))
    }

    fn first_submit(&self, args: &[&str]) -> Result<()> {
        let mut command = self.server.command(example("first-job-submit"));
        let ended = Program::spawn(command.args(args))?.wait()?;
        ensure!(ended.success(), "{ended:?}");
        Ok(())
    }

    /// Waits until the first worker's consumer has delivered everything and given up the rest. Returns how many jobs are still in the stream.
    fn stuck(&self) -> Result<u64> {
        self.server.monitor_until("/jsz?consumers=1", |jsz| {
            consumer(jsz, "workers")
                .is_some_and(|it| it["num_pending"] == 0 && it["num_ack_pending"] == 0)
        })?;
        let jsz = self.server.monitor("/jsz")?;
        jsz["messages"].as_u64().context("no messages")
    }
}

#[test]
fn first_versions_and_services_can_be_mixed() -> Result<()> {
    let queue = Queue::start()?;
    queue.first_submit(&["email", "{}", "a"])?;
    queue.submit("email --id b")?;
    let mut worker = queue.worker("--limit 2")?;
    assert_eq!(done(&worker.wait()?.stdout), ["a", "b"]);

    let queue = Queue::start()?;
    queue.submit("email --id b")?;
    queue.first_submit(&["email", "{}", "a"])?;
    let mut first = queue.first_worker()?;
    first.expect("b done")?;
    first.expect("a done")?;
    first.stop()?;
    Ok(())
}

#[test]
fn a_service_that_is_away_for_ten_seconds_burns_all_attempts_and_the_job_is_stuck() -> Result<()> {
    let queue = Queue::start()?;
    queue.first_submit(&["flaky", r#"{"away":10}"#, "f"])?;
    let mut first = queue.first_worker()?;
    first.expect("f again")?;
    let burnt = Instant::now();
    for _ in 2..=5 {
        first.expect("f again")?;
    }
    let burnt = burnt.elapsed();
    writeln!(std::io::stderr(), "first worker: 4 more attempts in {burnt:?}")?;
    assert!(burnt < Duration::from_secs(5), "{burnt:?}");
    assert_eq!(queue.stuck()?, 1);
    first.stop()?;
    // Another worker is not offered it either. A job that comes later is done.
    let mut other = queue.first_worker()?;
    queue.first_submit(&["email", "{}", "later"])?;
    other.expect("later done")?;
    assert_eq!(done(&other.stdout()), ["later"]);

    // The service under the same fault.
    let queue = Queue::start()?;
    queue.submit(r#"flaky {"away":10} --id f"#)?;
    let ended = queue.worker("--limit 1")?.wait()?;
    assert_eq!(done(&ended.stdout), ["f"]);
    Ok(())
}

#[test]
fn a_job_that_takes_longer_than_ack_wait_is_done_twice() -> Result<()> {
    let queue = Queue::start()?;
    queue.first_submit(&["report", r#"{"seconds":8}"#, "r"])?;
    let mut first = queue.first_worker()?;
    first.expect("r done")?;
    first.expect("r done")?;
    Ok(())
}

#[test]
fn a_job_that_kills_its_worker_is_stuck_after_five_kills() -> Result<()> {
    let queue = Queue::start()?;
    queue.first_submit(&["poison", "{}", "p"])?;
    for _ in 0..5 {
        let mut first = queue.first_worker()?;
        let ended = first.wait()?;
        ensure!(ended.code().is_none(), "{ended:?}");
    }
    let first = queue.first_worker()?;
    assert_eq!(queue.stuck()?, 1);
    assert!(first.stdout().is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_no_job_ends_one_worker_after_the_other() -> Result<()> {
    let queue = Queue::start()?;
    queue.first_submit(&["email", "{}", "a"])?;
    queue.publish("jobs.new.email.x", "no job").await?;
    queue.first_submit(&["email", "{}", "b"])?;
    let ended = queue.first_worker()?.wait()?;
    assert_eq!((ended.code(), done(&ended.stdout)), (Some(1), vec!["a"]));
    let ended = queue.first_worker()?.wait()?;
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    Ok(())
}

#[test]
fn when_a_worker_is_killed_later_jobs_overtake_its_own() -> Result<()> {
    let queue = Queue::start()?;
    queue.submit(r#"invoice {"seconds":4} --key k --id first"#)?;
    let mut killed = queue.first_worker()?;
    queue.server.monitor_until("/jsz?consumers=1", |jsz| {
        jsz.to_string().contains(r#""num_ack_pending":1"#)
    })?;
    killed.kill()?;
    let mut other = queue.first_worker()?;
    queue.submit("invoice --key k --id second")?;
    other.expect("second done")?;
    other.expect("first done")?;
    Ok(())
}

#[test]
fn a_job_that_is_submitted_again_is_done_again() -> Result<()> {
    let queue = Queue::start()?;
    for _ in 0..2 {
        queue.first_submit(&["email", "{}", "welcome-ann"])?;
    }
    let mut first = queue.first_worker()?;
    first.expect("welcome-ann done")?;
    first.expect("welcome-ann done")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_die_again_while_all_are_retried_are_lost() -> Result<()> {
    const JOBS: usize = 200;
    let queue = Queue::start()?;
    let _worker = queue.worker("--quiet")?;
    queue.submit(&format!("bad --count {JOBS} --quiet"))?;
    queue.until_left(0)?;
    assert_eq!(queue.dead().await?.len(), JOBS);
    // Over a line of 5 ms each way it takes seconds: time in which the first ones die again.
    let link = Link::to(queue.server.port())?;
    link.delay(Duration::from_millis(5));
    let mut admin = queue.server.command(example("first-job-admin"));
    let ended = Program::spawn(admin.env("NATS_URL", link.url()))?.wait()?;
    ensure!(ended.success() && ended.stdout.len() == JOBS, "{ended:?}");
    queue.until_left(0)?;
    let left = queue.dead().await?.len();
    writeln!(std::io::stderr(), "first admin: {} of {JOBS} dead jobs are lost", JOBS - left)?;
    assert!(left < JOBS);
    assert!(queue.effects()?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_no_job_ends_the_first_admin_in_the_middle() -> Result<()> {
    let queue = Queue::start()?;
    let mut worker = queue.worker("")?;
    queue.submit("bad --id first")?;
    worker.expect("first dead")?;
    queue.publish("jobs.new.bad.x", "no job").await?;
    worker.expect(" dead")?;
    worker.stop()?;
    let mut admin = Program::spawn(&mut queue.server.command(example("first-job-admin")))?;
    let ended = admin.wait()?;
    assert_eq!((ended.code(), ended.stdout), (Some(1), vec!["first is in the queue again".into()]));
    // In the queue and dead, both.
    queue.until_left(1)?;
    assert_eq!(queue.dead().await?.len(), 2);
    Ok(())
}
