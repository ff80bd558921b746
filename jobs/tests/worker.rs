//! One worker, one job at a time: what it does with good jobs, failing ones and bad ones.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::Server;
use tokio::time::sleep;

use crate::support::{ACK_WAIT, Queue, done, header};

#[test]
fn a_job_is_stored_once_and_done_once_for_each_id() -> Result<()> {
    let queue = Queue::start()?;
    let first = queue.submit("email --id welcome-ann")?;
    assert_eq!(first.stdout[0], "welcome-ann stored as number 1");
    let second = queue.submit("email --id welcome-ann")?;
    assert_eq!(second.stdout[0], "welcome-ann stored as number 1 (was stored already)");
    assert!(second.stdout[1].starts_with("1 jobs in "), "{second:?}");
    let mut worker = queue.worker("--limit 1")?;
    let ended = worker.wait()?;
    assert_eq!(done(&ended.stdout), ["welcome-ann"]);
    assert!(ended.stdout.last().context("no line")?.starts_with("1 jobs in "), "{ended:?}");
    assert_eq!(queue.effects()?, ["welcome-ann"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_message_for_a_job_that_is_done_has_no_effect() -> Result<()> {
    let queue = Queue::start()?;
    let mut worker = queue.worker("")?;
    let job = json!({ "job_id": "j", "kind": "email", "args": {} }).to_string();
    // Without a message id nats-server stores both, as it does when the first is too long ago.
    queue.publish("jobs.new.email.j", &job).await?;
    worker.expect("j done")?;
    queue.publish("jobs.new.email.j", &job).await?;
    queue.until_left(0)?;
    assert_eq!(done(&worker.stop()?.stdout), ["j"]);
    assert_eq!(queue.effects()?, ["j"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_dead_and_is_submitted_again_has_no_letter_when_it_is_done() -> Result<()> {
    let queue = Queue::start()?;
    let mut worker = queue.worker("")?;
    let job = |to: &str| json!({ "job_id": "j", "kind": "email", "args": { "to": to } });
    queue.publish("jobs.new.email.j", &job("no address").to_string()).await?;
    worker.expect("j dead")?;
    assert_eq!(queue.dead().await?.len(), 1);
    queue.publish("jobs.new.email.j", &job("ann@example.com").to_string()).await?;
    worker.expect("j done")?;
    queue.until_left(0)?;
    assert_eq!((queue.effects()?, queue.dead().await?.len()), (vec!["j".to_owned()], 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_take_one_of_its_kinds_ends_and_says_so() -> Result<()> {
    let queue = Queue::start()?;
    let mut worker = queue.worker("")?;
    queue.submit("bad")?;
    worker.expect(" dead ")?;
    worker.stop()?;
    let nats = async_nats::connect(queue.server.url()).await?;
    let stream = async_nats::jetstream::new(nats).get_stream("jobs").await?;
    let mut config = stream.consumer_info("bad").await?.config;
    config.max_deliver = 3;
    stream.delete_consumer("bad").await?;
    stream.create_consumer(config).await?;
    let ended = queue.worker("")?.wait()?;
    let [line] = &ended.stderr[..] else { anyhow::bail!("{ended:?}") };
    ensure!(ended.code() == Some(1) && line.contains("bad"), "{ended:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_leaves_no_room_for_headers_is_dead_too() -> Result<()> {
    let queue = Queue::start()?;
    let mut worker = queue.worker("")?;
    let nats = async_nats::connect(queue.server.url()).await?;
    let length = nats.server_info().max_payload;
    let jetstream = async_nats::jetstream::new(nats);
    jetstream.publish("jobs.new.email.long", "x".repeat(length).into()).await?.await?;
    worker.expect(" dead ")?;
    let dead = queue.dead().await?;
    let letter = dead.values().next().context("no letter")?;
    let reason = header(&letter.headers, "Job-Reason")?;
    ensure!(reason.contains(&format!("payload cut, it had {length} bytes")), "{reason}");
    ensure!(letter.payload.len() > length - 2_000, "{}", letter.payload.len());
    queue.until_left(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_its_kinds_and_stops_at_its_limit() -> Result<()> {
    let queue = Queue::start()?;
    queue.submit("email --count 300 --quiet")?;
    queue.submit("report {\"seconds\":0} --count 3")?;
    let ended = queue.worker("--kinds report,bad --limit 3")?.wait()?;
    assert_eq!(done(&ended.stdout).len(), 3);
    let ended = queue.worker("--limit 120 --quiet")?.wait()?;
    ensure!(ended.success() && ended.stdout.len() == 2, "{ended:?}");
    assert_eq!(queue.effects()?.len(), 123);
    // The others were handed back: another program has them long before ACK_WAIT is over.
    assert_eq!(queue.delivered("email", 180).await?, 180);
    let ended = queue.worker("--limit 180")?.wait()?;
    assert_eq!(done(&ended.stdout).len(), 180);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_is_tried_again_after_pauses_that_grow_and_then_dead() -> Result<()> {
    let queue = Queue::start()?;
    let mut worker = queue.worker("")?;
    let begun = Instant::now();
    queue.submit("flaky {\"failures\":9} --id f")?;
    let mut times = Vec::new();
    for attempt in 1..=4 {
        worker.expect(&format!("attempt {attempt} failed"))?;
        times.push(Instant::now());
    }
    worker.expect("f dead")?;
    times.push(Instant::now());
    let mut pauses = 0.0;
    for (pair, seconds) in times.windows(2).zip([1.0, 2.0, 4.0, 8.0]) {
        // A line may be noticed late, but no pause is shorter.
        pauses += seconds;
        ensure!((pair[1] - begun).as_secs_f64() > pauses, "{times:?} since {begun:?}");
        // Up to a fifth more by design, the rest for a busy machine.
        let pause = (pair[1] - pair[0]).as_secs_f64();
        ensure!(pause < seconds * 1.2 + 3.0, "{pause} for {seconds}");
    }
    let dead = queue.dead().await?;
    let letter = &dead["f"];
    assert_eq!(header(&letter.headers, "Job-Attempts")?, "5");
    assert_eq!(header(&letter.headers, "Job-Reason")?, "the service does not answer");
    let first = header(&letter.headers, "Job-First-At")?;
    let last = header(&letter.headers, "Job-Last-At")?;
    assert!(first < last, "{first} {last}");
    assert!(header(&letter.headers, "Job-Worker")?.starts_with("worker-"));
    let payload: Value = serde_json::from_slice(&letter.payload)?;
    assert_eq!(payload["args"]["failures"], 9);
    assert!(queue.effects()?.is_empty());
    queue.until_left(0)
}

#[test]
fn a_job_that_fails_twice_has_one_effect() -> Result<()> {
    let queue = Queue::start()?;
    queue.submit("flaky {\"failures\":2} --id f")?;
    let ended = queue.worker("--limit 1")?.wait()?;
    let again = ended.stdout.iter().filter(|line| line.starts_with("f again in ")).count();
    assert_eq!((again, done(&ended.stdout)), (2, vec!["f"]));
    assert_eq!(queue.effects()?, ["f"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_job_is_dead_at_once_with_its_reason_and_payload() -> Result<()> {
    let queue = Queue::start()?;
    let worker = queue.worker("")?;
    let bad = [
        ("jobs.new.email.a", "no JSON", "not a JSON object"),
        ("jobs.new.email.b", r#"["b","email",null,{}]"#, "not a JSON object"),
        ("jobs.new.email.c", r#"{"job_id":"c","kind":"email"}"#, "missing field `args`"),
        (
            "jobs.new.email.d",
            r#"{"job_id":"d","kind":"nosuch","args":{}}"#,
            "unknown kind \"nosuch\"",
        ),
        (
            "jobs.new.email.e",
            r#"{"job_id":"e","kind":"invoice","args":{}}"#,
            "invoice on a subject of",
        ),
        ("jobs.new.email.f", r#"{"job_id":"a b","kind":"email","args":{}}"#, "\"a b\" is no id"),
        (
            "jobs.new.email.g",
            r#"{"job_id":"g","kind":"email","key":"","args":{}}"#,
            "\"\" is no id",
        ),
        ("jobs.new.email.h", r#"{"job_id":"h","kind":"email","args":[]}"#, "invalid type"),
        ("jobs.new.invoice.i", "", "not a JSON object"),
        (
            "jobs.new.email.j.k.l",
            r#"{"job_id":"j","kind":"email","args":{"to":1}}"#,
            "arguments of email",
        ),
        ("jobs.new.bad.k", r#"{"job_id":"k","kind":"bad","args":{}}"#, "can never succeed"),
    ];
    for (subject, payload, _) in bad {
        queue.publish(subject, payload).await?;
    }
    queue.submit("email --id good")?;
    queue.until_left(0)?;
    assert_eq!(queue.effects()?, ["good"]);
    let dead = queue.dead().await?;
    assert_eq!(dead.len(), bad.len());
    for (subject, payload, reason) in bad {
        let letter = dead.values().find(|letter| letter.payload == payload.as_bytes());
        let letter = letter.with_context(|| format!("no dead letter for {payload}"))?;
        let kind = subject.split('.').nth(2).context("no kind")?;
        assert!(letter.subject.starts_with(&format!("jobs.dead.{kind}.")), "{}", letter.subject);
        let found = header(&letter.headers, "Job-Reason")?;
        assert!(found.contains(reason), "{found} in place of {reason}");
    }
    drop(worker);
    Ok(())
}

#[test]
fn a_long_job_runs_once_and_its_worker_says_that_it_is_alive() -> Result<()> {
    let queue = Queue::start()?;
    let mut workers = [queue.worker("")?, queue.worker("")?];
    queue.submit(&format!("report {{\"seconds\":{}}} --id r", 3 * ACK_WAIT.as_secs()))?;
    queue.until_left(0)?;
    assert_eq!(queue.effects()?, ["r"]);
    assert_eq!(queue.consumer("report")?["num_redelivered"], 0);
    let mut times = 0;
    for worker in &mut workers {
        times += done(&worker.stop()?.stdout).len();
    }
    assert_eq!(times, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_finishes_what_it_can_and_hands_back_the_rest_at_once()
-> Result<()> {
    let queue = Queue::start()?;
    queue.submit("report {\"seconds\":1} --id short")?;
    queue.submit("report {\"seconds\":6} --id long")?;
    let mut worker = queue.worker("--concurrency 2")?;
    queue.until_begun("job_id = 'long'").await?;
    let told = Instant::now();
    let ended = worker.stop()?;
    ensure!(ended.success() && ended.stderr.is_empty(), "{ended:?}");
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
    assert_eq!(done(&ended.stdout), ["short"]);
    // Long before ACK_WAIT is over, another program gets the job.
    assert_eq!(queue.delivered("report", 1).await?, 1);
    // It was not an attempt.
    let attempts: u32 =
        queue.sql()?.query_row("SELECT attempts FROM attempts", [], |row| row.get(0))?;
    assert_eq!(attempts, 0);
    let mut other = queue.worker("--limit 1")?;
    assert_eq!(done(&other.wait()?.stdout), ["long"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_locked_jobs_wait_and_none_is_acknowledged() -> Result<()> {
    let queue = Queue::start()?;
    let mut worker = queue.worker("")?;
    let sql = queue.sql()?;
    sql.execute_batch("BEGIN IMMEDIATE")?;
    queue.submit("email --count 20 --quiet")?;
    worker.expect_stderr("the database does not take changes, trying again")?;
    sleep(ACK_WAIT).await;
    assert!(queue.effects()?.is_empty());
    sql.execute_batch("COMMIT")?;
    queue.until_left(0)?;
    assert_eq!(queue.effects()?.len(), 20);
    assert!(queue.dead().await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_disk_is_full_jobs_wait_and_none_is_acknowledged() -> Result<()> {
    const JOBS: usize = 2_000;
    let queue = Queue::start()?;
    queue.submit(&format!("email --count {JOBS} --quiet"))?;
    let mut worker = queue.worker_on_a_full_disk()?;
    worker.expect_stderr("the database does not take changes, trying again")?;
    worker.kill()?;
    assert!(queue.effects()?.len() < JOBS);
    // There is room again.
    let _worker = queue.worker("--quiet")?;
    queue.until_left(0)?;
    assert_eq!(queue.effects()?.len(), JOBS);
    assert!(queue.dead().await?.is_empty());
    Ok(())
}

#[test]
fn a_database_that_cannot_be_opened_is_one_clear_line() -> Result<()> {
    let queue = Queue::start()?;
    std::fs::write(
        queue.database(),
        "no SQLite file, and longer than its header of 100 bytes ".repeat(9),
    )?;
    let error = queue.worker("").err().context("it started")?.to_string();
    assert!(error.contains("cannot open the database"), "{error}");
    assert!(error.contains("file is not a database"), "{error}");
    Ok(())
}

#[test]
fn a_submitter_is_told_when_the_server_is_full_and_nothing_is_half_stored() -> Result<()> {
    let account = "accounts { A { jetstream { max_mem: 100KB, max_file: 100KB }, users: [ { user: a, password: a } ] } }
        no_auth_user: a";
    let queue = Queue::with(Server::options().config(account))?;
    let ended = queue.submitting("email --count 5000")?.wait()?;
    assert_eq!(ended.code(), Some(1));
    let reported = ended.stdout.iter().filter(|line| line.contains(" stored as ")).count();
    let last = ended.stderr.last().context("no line")?;
    assert!(last.starts_with(&format!("error: {reported} jobs are stored on ")), "{last}");
    assert!(last.contains("raise the limits of account or server"), "{last}");
    assert!((100..5000).contains(&reported));
    let jsz = queue.server.monitor("/jsz")?;
    assert_eq!(jsz["messages"], reported, "{jsz:#}");
    Ok(())
}

#[test]
fn bad_command_lines_are_refused() -> Result<()> {
    let queue = Queue::start()?;
    for args in [
        "e.mail",
        "email []",
        "email {",
        "email --id a.b",
        "email --key *",
        "email --delay 2y",
        "email --delay soon",
        "",
    ] {
        let ended = queue.submitting(args)?.wait()?;
        assert_eq!(ended.code(), Some(2), "{args}: {ended:?}");
    }
    let long = "x".repeat(64);
    assert_eq!(queue.submitting(&format!("email --id {long}"))?.wait()?.code(), Some(0));
    let ended = queue.submitting(&format!("email --id {long} --count 2"))?.wait()?;
    assert_eq!(ended.code(), Some(1));
    assert!(queue.worker("--kinds email,nosuch").is_err());
    Ok(())
}

#[test]
fn ids_are_unique_across_runs() -> Result<()> {
    let queue = Queue::start()?;
    let mut ids = BTreeSet::new();
    for _ in 0..2 {
        let ended = queue.submit("email --count 100")?;
        let run = ended.stdout.iter().filter_map(|line| line.split_once(" stored"));
        ids.extend(run.map(|(id, _)| id.to_owned()));
    }
    assert_eq!(ids.len(), 200);
    Ok(())
}
