//! The publisher and its workers against a real server.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::{Link, Program, Server};

use crate::support::{
    Handled, PUBLISHER, SUBJECT, WORKER, count_of, id_of, publish, server_takes, start_worker,
};

#[test]
fn each_message_goes_to_one_worker() -> Result<()> {
    let server = Server::start()?;
    let handled = Handled::default();
    let mut workers = start_workers(&server, 3, &handled)?;
    publish(&server, 300)?;
    handled.wait(300)?;
    for worker in &mut workers {
        assert!(count_of(&worker.stop()?)? > 0, "the work is shared");
    }
    handled.check(1..=300, 1);
    Ok(())
}

#[test]
fn each_worker_gets_its_share_in_order() -> Result<()> {
    let server = Server::start()?;
    let handled = Handled::default();
    let mut workers = start_workers(&server, 3, &handled)?;
    publish(&server, 3_000)?;
    for worker in &mut workers {
        let ended = worker.stop()?;
        let ids: Vec<u64> = ended.stdout.iter().filter_map(|line| id_of(line)).collect();
        assert!(ids.is_sorted(), "{ids:?}");
    }
    handled.check(1..=3_000, 1);
    Ok(())
}

#[test]
fn thirty_messages_unless_told_otherwise() -> Result<()> {
    let server = Server::start()?;
    let ended = Program::spawn(&mut server.command(PUBLISHER))?.wait()?;
    assert!(ended.success());
    assert_eq!(ended.stdout.len(), 1);
    assert!(ended.stdout[0].starts_with("30 messages in "));
    assert_eq!(ended.stderr, [""; 0]);
    Ok(())
}

#[test]
fn a_worker_shows_what_it_handles() -> Result<()> {
    let server = Server::start()?;
    let mut command = server.command(WORKER);
    let mut worker = Program::spawn(command.args(["--name", "ann", "--limit", "2"]))?;
    worker.expect("ann: waiting for logs.process in the group log_workers")?;
    let info = br#"{"id": 7, "level": "INFO", "message": "order placed"}"#;
    let error = br#"{"level":"ERROR","id":8,"message":"a\nb","more":[1]}"#;
    server_takes(&server, &[info, error])?;
    let ended = worker.wait()?;
    assert!(ended.success());
    assert_eq!(ended.stdout[1], r#"ann: log 7 INFO "order placed""#);
    assert_eq!(ended.stdout[2], r#"ann: log 8 ERROR "a\nb""#);
    assert!(ended.stdout[3].starts_with("ann: 2 messages in "));
    assert_eq!(ended.stdout.len(), 4);
    Ok(())
}

#[test]
fn workers_have_names_of_their_own() -> Result<()> {
    let server = Server::start()?;
    let mut names = BTreeMap::new();
    for _ in 0..3 {
        let mut worker = Program::spawn(&mut server.command(WORKER))?;
        let line = worker.expect(": waiting for")?;
        names.insert(line, worker);
    }
    assert_eq!(names.len(), 3, "{:?}", names.keys());
    Ok(())
}

#[test]
fn a_worker_that_says_it_waits_gets_the_next_message() -> Result<()> {
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    link.delay(Duration::from_millis(100));
    let handled = Handled::default();
    let mut command = server.command(WORKER);
    let _worker = start_worker(command.env("NATS_URL", link.url()), &handled)?;
    publish(&server, 1)?;
    handled.wait(1)
}

#[test]
fn a_killed_worker_is_replaced_at_once() -> Result<()> {
    let server = Server::start()?;
    let handled = Handled::default();
    let mut workers = start_workers(&server, 3, &handled)?;
    let mut command = server.command(PUBLISHER);
    let mut publisher = Program::spawn(command.args(["--count", "30000"]))?;
    handled.wait(3_000)?;
    workers.remove(0).kill()?;
    // nats-server notices by itself: the connection is closed.
    server.wait_for_subscriptions(SUBJECT, 2)?;
    assert!(publisher.wait()?.success());

    // From now on the others handle everything …
    let entries: Vec<String> = (200_001..=201_000)
        .map(|id| format!(r#"{{"id":{id},"level":"INFO","message":"after the kill"}}"#))
        .collect();
    let entries: Vec<&[u8]> = entries.iter().map(String::as_bytes).collect();
    server_takes(&server, &entries)?;
    handled.wait_for(200_001..=201_000)?;
    for worker in &mut workers {
        assert!(count_of(&worker.stop()?)? > 0);
    }
    handled.check(200_001..=201_000, 1);
    // … and what the killed one had been given is lost, no more.
    let lost = handled.missing(1..=30_000);
    assert!(lost < 15_000, "{lost} of 30000 were lost");
    Ok(())
}

#[test]
fn workers_are_back_within_a_second_of_the_server() -> Result<()> {
    let mut server = Server::start()?;
    let handled = Handled::default();
    // How long a worker takes that does not have to wait: the machine may be busy.
    let begun = Instant::now();
    let mut workers = start_workers(&server, 1, &handled)?;
    let baseline = begun.elapsed();
    workers.extend([start_worker(&mut server.command(WORKER), &handled)?]);
    // A client that waits longer after each attempt is late after each outage; a busy machine is not.
    let (mut late, mut outages) = (Duration::MAX, 0);
    while late > baseline + Duration::from_secs(1) && outages < 3 {
        server.kill()?;
        for worker in &mut workers {
            worker.expect_stderr("lost the connection")?;
        }
        // Long enough for the library's own pauses, which double up to 4 s, to make it late.
        std::thread::sleep(Duration::from_millis(4_500));
        server.restart()?;
        let back = Instant::now();
        server.wait_for_subscriptions(SUBJECT, 2)?;
        late = late.min(back.elapsed());
        for worker in &mut workers {
            worker.expect_stderr("again")?;
        }
        outages += 1;
    }
    publish(&server, 300)?;
    handled.wait(300)?;
    assert!(late <= baseline + Duration::from_secs(1), "{late:?}, baseline {baseline:?}");
    handled.check(1..=300, 1);
    for worker in &mut workers {
        let ended = worker.stop()?;
        assert!(ended.success());
        // Each outage and its end are said once.
        assert_eq!(ended.stderr.len(), 2 * outages, "{:?}", ended.stderr);
    }
    Ok(())
}

#[test]
fn a_link_that_breaks_or_stalls_costs_no_more_than_what_was_on_it() -> Result<()> {
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    link.delay(Duration::from_millis(20));
    let handled = Handled::default();
    let mut command = server.command(WORKER);
    let mut worker = start_worker(command.env("NATS_URL", link.url()), &handled)?;

    // Cut and healed: everything arrives, late.
    link.cut();
    publish(&server, 1_000)?;
    assert_eq!(handled.missing(1..=1_000), 1_000);
    link.heal();
    handled.wait(1_000)?;
    handled.check(1..=1_000, 1);

    // Broken: the worker reconnects, and works.
    link.reset();
    worker.expect_stderr("lost the connection")?;
    worker.expect_stderr("again")?;
    server.wait_for_subscriptions(SUBJECT, 1)?;
    publish(&server, 1_000)?;
    handled.wait(2_000)?;
    handled.check(1..=1_000, 2);
    Ok(())
}

#[test]
fn a_publisher_is_done_when_the_server_has_everything() -> Result<()> {
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    link.delay(Duration::from_millis(20));
    let mut command = server.command(PUBLISHER);
    command.env("NATS_URL", link.url());
    let ended = Program::spawn(command.args(["--count", "20000"]))?.wait()?;
    assert!(ended.success());
    let received = server.monitor("/varz")?["in_msgs"].as_u64();
    // One more: its own message to itself.
    assert_eq!(received, Some(20_001));
    Ok(())
}

#[test]
fn a_publisher_rides_out_a_restart_and_says_what_it_costs() -> Result<()> {
    let mut server = Server::start()?;
    let mut command = server.command(PUBLISHER);
    let mut publisher = Program::spawn(command.args(["--count", &u64::MAX.to_string()]))?;
    server.monitor_until("/varz", |varz| varz["in_msgs"].as_u64() > Some(1_000))?;
    server.kill()?;
    publisher.expect_stderr("lost the connection")?;
    server.restart()?;
    server.monitor_until("/varz", |varz| varz["in_msgs"].as_u64() > Some(1_000))?;
    let ended = publisher.stop()?;
    assert!(count_of(&ended)? > 2_000);
    let warned = ended.stderr.iter().any(|line| line.contains("may be gone"));
    assert!(warned, "{:?}", ended.stderr);
    Ok(())
}

#[test]
fn ten_thousand_malformed_messages_are_reported_and_skipped() -> Result<()> {
    let server = Server::start()?;
    let mut command = server.command(WORKER);
    let handled = Handled::default();
    let mut worker = start_worker(command.args(["--limit", "30"]), &handled)?;
    let kinds: [&[u8]; 10] = [
        b"",
        b"\xff\xfe\0",
        b"{",
        b"null",
        b"[1, \"INFO\", \"x\", 4]",
        b"{\"id\":\"1\",\"level\":\"INFO\",\"message\":\"x\"}",
        b"{\"id\":-1,\"level\":\"INFO\",\"message\":\"x\"}",
        b"{\"id\":1,\"level\":\"\\u001b[2J\\nFATAL\",\"message\":\"x\"}",
        b"{\"id\":1,\"level\":\"INFO\"}",
        b"{\"id\":1,\"level\":\"INFO\",\"message\":\"x\"} and more",
    ];
    server_takes(&server, &kinds.repeat(1_000))?;
    publish(&server, 30)?;
    let ended = worker.wait()?;
    assert_eq!(count_of(&ended)?, 30);
    handled.check(1..=30, 1);
    assert_eq!(ended.stderr.len(), 10_000);
    for line in &ended.stderr {
        assert!(line.contains("skipped a message"), "{line:?}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    Ok(())
}

#[test]
fn a_worker_that_is_too_slow_says_how_much_it_dropped() -> Result<()> {
    let server = Server::start()?;
    let mut command = server.command(WORKER);
    let handled = Handled::default();
    command.args(["--buffer", "10", "--work", "50ms"]);
    let mut worker = start_worker(&mut command, &handled)?;
    publish(&server, 1_000)?;
    worker.expect_stderr("slow consumer")?;
    let ended = worker.stop()?;
    let dropped = ended.stderr.iter().find_map(|line| line.split_once(" messages were dropped"));
    let dropped = dropped.and_then(|(before, _)| before.split_whitespace().last());
    let dropped: u64 = dropped.context("it does not say how many")?.parse()?;
    // The worker's messages to itself are none of them.
    assert_eq!(count_of(&ended)? + dropped, 1_000);
    assert!(dropped > 900, "{dropped}");
    assert!(ended.stderr.len() < 5, "{:?}", ended.stderr);
    Ok(())
}

#[test]
fn a_busy_worker_holds_what_the_library_would_drop() -> Result<()> {
    let server = Server::start()?;
    let handled = Handled::default();
    // What it prints is not read until this channel is closed: it stands still at a full pipe.
    let (reading, held) = channel::<()>();
    let noted = handled.clone();
    let mut worker = Program::spawn_watched(&mut server.command(WORKER), move |line| {
        if line.contains(": log ") {
            let _ = held.recv();
        }
        noted.note(line);
    })?;
    worker.expect(": waiting for")?;
    publish(&server, 100_000)?;
    server.monitor_until("/connz", |connz| {
        let worker = &connz["connections"][0];
        worker["out_msgs"].as_u64() >= Some(100_000) && worker["pending_bytes"] == 0
    })?;
    drop(reading);
    handled.wait(100_000)?;
    handled.check(1..=100_000, 1);
    let ended = worker.stop()?;
    assert_eq!(ended.stderr, [""; 0]);
    Ok(())
}

#[test]
fn a_closed_pipe_ends_a_worker_quietly() -> Result<()> {
    let server = Server::start()?;
    let mut command = server.command(WORKER);
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut worker = piped.spawn()?;
    let mut stdout = BufReader::new(worker.stdout.take().context("no pipe")?);
    stdout.read_line(&mut String::new())?;
    drop(stdout);
    // It prints one line more, and would then wait for a message that never comes.
    publish(&server, 1)?;
    let mut said = String::new();
    let mut stderr = worker.stderr.take().context("no pipe")?;
    stderr.read_to_string(&mut said)?;
    assert_eq!(said, "");
    assert!(worker.wait()?.success());
    Ok(())
}

#[test]
fn a_denied_publish_is_no_success() -> Result<()> {
    let config = "authorization { users: [ { user: a, password: a, permissions: { publish: \"_INBOX.>\" } } ] }
        no_auth_user: a";
    let server = Server::options().config(config).start()?;
    // More than once: the answer and the last message come at almost the same time.
    for _ in 0..20 {
        let ended = Program::spawn(server.command(PUBLISHER).args(["--count", "3"]))?.wait()?;
        assert_eq!(ended.code(), Some(1), "{ended:?}");
        assert_eq!(ended.stdout, [""; 0]);
        assert!(ended.stderr[0].contains("logs.process"), "{ended:?}");
    }
    Ok(())
}

#[test]
fn a_denied_subscription_is_no_success() -> Result<()> {
    let config = "authorization { users: [ { user: a, password: a, permissions: { subscribe: \"_INBOX.>\" } } ] }
        no_auth_user: a";
    let server = Server::options().config(config).start()?;
    let ended = Program::spawn(&mut server.command(WORKER))?.wait()?;
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    ensure!(ended.stderr.len() == 1 && ended.stderr[0].contains("logs.process"), "{ended:?}");
    Ok(())
}

fn start_workers(server: &Server, count: usize, handled: &Handled) -> Result<Vec<Program>> {
    let workers = (0..count).map(|_| start_worker(&mut server.command(WORKER), handled));
    workers.collect()
}
