//! The publisher and its workers against a real server.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::{Ended, Link, Program, Server, Signal};

const PUBLISHER: &str = env!("CARGO_BIN_EXE_log-publisher");
const WORKER: &str = env!("CARGO_BIN_EXE_log-worker");
const SUBJECT: &str = "logs.process";

#[test]
fn each_message_goes_to_one_worker() -> Result<()> {
    let server = Server::start()?;
    let handled = Handled::default();
    let mut workers = start_workers(&server, 3, &handled)?;
    assert_eq!(publish(&server, 300)?, 300);
    handled.wait(300)?;
    for worker in &mut workers {
        assert!(handled_by(&worker.stop()?)? > 0, "the work is shared");
    }
    handled.check_once(1..=300);
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
    assert_eq!(handled.count(), 3_000);
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
fn a_stopped_worker_loses_nothing() -> Result<()> {
    let server = Server::start()?;
    let handled = Handled::default();
    let workers = start_workers(&server, 3, &handled)?;
    stop_one_of(workers, &server, &handled, 200_000)
}

#[test]
fn a_stopped_worker_loses_nothing_over_a_slow_link() -> Result<()> {
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    link.delay(Duration::from_millis(20));
    let handled = Handled::default();
    let mut workers = Vec::new();
    for _ in 0..3 {
        let mut command = server.command(WORKER);
        workers.push(start_worker(command.env("NATS_URL", link.url()), &handled)?);
    }
    server.wait_for_subscriptions(SUBJECT, 3)?;
    stop_one_of(workers, &server, &handled, 200_000)
}

#[test]
fn a_worker_stops_soon_under_endless_load() -> Result<()> {
    let server = Server::start()?;
    let handled = Handled::default();
    let start = || start_worker(server.command(WORKER).arg("--quiet"), &handled);
    let (mut stopping, mut staying) = (start()?, start()?);
    server.wait_for_subscriptions(SUBJECT, 2)?;
    let mut publisher = start_publisher(&server, u64::MAX)?;
    server.monitor_until("/varz", |varz| varz["in_msgs"].as_u64() > Some(10_000))?;
    let told = Instant::now();
    let stopped = stopping.stop()?;
    let late = told.elapsed();
    let count = summary_of(&publisher.stop()?)?;
    let sum = handled_by(&stopped)? + handled_by(&staying.stop()?)?;
    assert_eq!(sum, count);
    assert_eq!(stopped.stderr, [""; 0]);
    // Told to go on for a while, the server would have done so until 3 s were over.
    assert!(late < Duration::from_secs(3), "{late:?}");
    Ok(())
}

/// Publishes, stops a worker in the middle, and checks that each message was handled once.
fn stop_one_of(
    mut workers: Vec<Program>,
    server: &Server,
    handled: &Handled,
    count: u64,
) -> Result<()> {
    let mut publisher = start_publisher(server, count)?;
    let received = |varz: &Value| varz["in_msgs"].as_u64().unwrap_or(0);
    server.monitor_until("/varz", |varz| received(varz) > count / 4)?;
    let mut stopping = workers.remove(0);
    stopping.signal(Signal::TERM)?;
    let then = received(&server.monitor("/varz")?);
    let stopped = stopping.wait()?;
    assert_eq!(stopped.stderr, [""; 0]);
    assert!(publisher.wait()?.success());
    handled.wait(count)?;
    let mut sum = handled_by(&stopped)?;
    for worker in &mut workers {
        sum += handled_by(&worker.stop()?)?;
    }
    handled.check_once(1..=count);
    assert_eq!(sum, count);
    ensure!(then < count, "the worker was stopped too late to tell");
    Ok(())
}

#[test]
fn a_killed_worker_is_replaced_at_once() -> Result<()> {
    let server = Server::start()?;
    let handled = Handled::default();
    let mut workers = start_workers(&server, 3, &handled)?;
    let mut publisher = start_publisher(&server, 100_000)?;
    handled.wait(10_000)?;
    workers.remove(0).kill()?;
    let killed = Instant::now();
    server.wait_for_subscriptions(SUBJECT, 2)?;
    let late = killed.elapsed();
    assert!(late < Duration::from_secs(1), "{late:?}");
    assert!(publisher.wait()?.success());

    // From now on the others handle everything …
    let entries: Vec<String> = (200_001..=201_000)
        .map(|id| format!(r#"{{"id":{id},"level":"INFO","message":"after the kill"}}"#))
        .collect();
    let entries: Vec<&[u8]> = entries.iter().map(String::as_bytes).collect();
    server_takes(&server, &entries)?;
    for worker in &mut workers {
        assert!(handled_by(&worker.stop()?)? > 0);
    }
    handled.check_once(200_001..=201_000);
    // … and what the killed one had been given is lost, no more.
    let lost = handled.missing(1..=100_000);
    assert!(lost < 50_000, "{lost} of 100000 were lost");
    Ok(())
}

#[test]
fn workers_are_back_within_a_second_of_the_server() -> Result<()> {
    let mut server = Server::start()?;
    let handled = Handled::default();
    let mut workers = start_workers(&server, 3, &handled)?;
    server.kill()?;
    for worker in &mut workers {
        worker.expect_stderr("lost the connection")?;
    }
    // Long enough for clients that wait longer after each attempt to be late.
    std::thread::sleep(Duration::from_secs(2));
    server.restart()?;
    let back = Instant::now();
    server.wait_for_subscriptions(SUBJECT, 3)?;
    let late = back.elapsed();
    publish(&server, 300)?;
    handled.wait(300)?;
    assert!(late < Duration::from_secs(1), "{late:?}");
    handled.check_once(1..=300);
    for worker in &mut workers {
        let ended = worker.stop()?;
        assert!(ended.success());
        assert_eq!(ended.stderr.len(), 2, "{:?}", ended.stderr);
        assert!(ended.stderr[1].contains("again"), "{:?}", ended.stderr);
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
    server.wait_for_subscriptions(SUBJECT, 1)?;

    // Cut and healed: everything arrives, late.
    link.cut();
    publish(&server, 1_000)?;
    assert_eq!(handled.count(), 0);
    link.heal();
    handled.wait(1_000)?;
    handled.check_once(1..=1_000);

    // Broken: it comes back, and works.
    link.reset();
    worker.expect_stderr("lost the connection")?;
    worker.expect_stderr("again")?;
    server.wait_for_subscriptions(SUBJECT, 1)?;
    publish(&server, 1_000)?;
    handled.wait(2_000)?;

    // Cut, and told to stop: it does not wait for a server that it cannot hear.
    link.cut();
    let told = Instant::now();
    assert!(worker.stop()?.success());
    assert!(told.elapsed() < Duration::from_secs(5));
    Ok(())
}

#[test]
fn an_idle_worker_stops_at_once() -> Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::start()?;
        let mut worker = start_worker(&mut server.command(WORKER), &Handled::default())?;
        let told = Instant::now();
        worker.signal(signal)?;
        let ended = worker.wait()?;
        assert!(ended.success());
        assert_eq!(ended.stderr, [""; 0]);
        assert!(ended.stdout[1].ends_with(": 0 messages in 0.000 s (0/s)"));
        assert!(
            told.elapsed() < Duration::from_secs(1),
            "{:?}",
            told.elapsed()
        );
    }
    Ok(())
}

#[test]
fn workers_and_publishers_stop_while_the_server_is_away() -> Result<()> {
    let mut server = Server::start()?;
    let mut worker = start_worker(&mut server.command(WORKER), &Handled::default())?;
    let mut publisher = start_publisher(&server, u64::MAX)?;
    worker.expect("log ")?;
    server.kill()?;
    worker.expect_stderr("lost the connection")?;
    publisher.expect_stderr("lost the connection")?;
    let told = Instant::now();
    worker.signal(Signal::TERM)?;
    publisher.signal(Signal::TERM)?;
    for program in [&mut worker, &mut publisher] {
        let ended = program.wait()?;
        assert_eq!(ended.code(), Some(0), "{:?}", ended.stderr);
        let last = ended.stdout.last().context("nothing was printed")?;
        assert!(last.contains(" messages in "), "{last}");
    }
    assert!(
        told.elapsed() < Duration::from_secs(5),
        "{:?}",
        told.elapsed()
    );
    Ok(())
}

#[test]
fn a_stopped_publisher_says_how_many_the_server_has() -> Result<()> {
    let server = Server::start()?;
    let handled = Handled::default();
    let mut worker = start_worker(server.command(WORKER).arg("--quiet"), &handled)?;
    server.wait_for_subscriptions(SUBJECT, 1)?;
    let mut publisher = start_publisher(&server, u64::MAX)?;
    server.monitor_until("/varz", |varz| varz["in_msgs"].as_u64() > Some(10_000))?;
    let ended = publisher.stop()?;
    assert!(ended.success());
    assert_eq!(ended.stderr, [""; 0]);
    assert_eq!(handled_by(&worker.stop()?)?, summary_of(&ended)?);
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
    let count = 150_000;
    let mut publisher = start_publisher(&server, count)?;
    server.monitor_until("/varz", |varz| varz["in_msgs"].as_u64() > Some(10_000))?;
    server.kill()?;
    publisher.expect_stderr("lost the connection")?;
    server.restart()?;
    let mut worker = start_worker(server.command(WORKER).arg("--quiet"), &Handled::default())?;
    let ended = publisher.wait()?;
    assert!(ended.success());
    assert_eq!(summary_of(&ended)?, count);
    let warned = ended.stderr.iter().any(|line| line.contains("may be gone"));
    assert!(warned, "{:?}", ended.stderr);
    assert!(worker.stop()?.success());
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
    assert!(ended.success());
    assert_eq!(summary_of(&ended)?, 30);
    handled.check_once(1..=30);
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
    let mut worker = start_worker(command.args(["--buffer", "10"]), &handled)?;
    server.wait_for_subscriptions(SUBJECT, 1)?;
    publish(&server, 20_000)?;
    worker.expect_stderr("faster than they are handled")?;
    let ended = worker.stop()?;
    let dropped: u64 = ended
        .stderr
        .iter()
        .find_map(|line| line.split_once(" messages were dropped"))
        .and_then(|(before, _)| before.split_whitespace().last())
        .context("no word on how many")?
        .parse()?;
    assert!(dropped > 0);
    assert_eq!(handled_by(&ended)? + dropped, 20_000);
    assert!(ended.stderr.len() < 10, "{:?}", ended.stderr);
    Ok(())
}

#[test]
fn a_busy_worker_holds_what_the_library_would_drop() -> Result<()> {
    let server = Server::start()?;
    let handled = Handled::default();
    // Nobody reads what it prints, until this channel is closed: it stands still at a full pipe.
    let (closed, blocked) = channel::<()>();
    let noted = handled.clone();
    let mut worker = Program::spawn_watched(&mut server.command(WORKER), move |line| {
        if line.contains(": log ") {
            let _ = blocked.recv();
        }
        noted.note(line);
    })?;
    server.wait_for_subscriptions(SUBJECT, 1)?;
    publish(&server, 100_000)?;
    server.monitor_until("/connz", |connz| {
        let worker = &connz["connections"][0];
        worker["out_msgs"] == 100_000 && worker["pending_bytes"] == 0
    })?;
    drop(closed);
    handled.wait(100_000)?;
    handled.check_once(1..=100_000);
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
    server.wait_for_subscriptions(SUBJECT, 1)?;
    publish(&server, 30)?;
    let mut said = String::new();
    let mut stderr = worker.stderr.take().context("no pipe")?;
    stderr.read_to_string(&mut said)?;
    assert_eq!(said, "");
    assert!(worker.wait()?.success());
    Ok(())
}

#[test]
fn a_worker_whose_lines_nobody_reads_can_be_stopped() -> Result<()> {
    let server = Server::start()?;
    let mut command = server.command(WORKER);
    let mut worker = command.stdout(Stdio::piped()).spawn()?;
    // Held, and not read: a pipe takes 64 KiB, and each line has some forty bytes.
    let stdout = worker.stdout.take().context("no pipe")?;
    server.wait_for_subscriptions(SUBJECT, 1)?;
    publish(&server, 5_000)?;
    server.monitor_until("/varz", |varz| varz["out_msgs"].as_u64() >= Some(5_000))?;
    let pid = worker.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()?
            .success()
    );
    let (ended, end) = channel();
    std::thread::spawn(move || ended.send(worker.wait()));
    let Ok(status) = end.recv_timeout(Duration::from_secs(5)) else {
        Command::new("kill").args(["-KILL", &pid]).status()?;
        anyhow::bail!("it did not end");
    };
    assert!(status?.success());
    drop(stdout);
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

/// Which log entries were handled, by all workers together.
#[derive(Clone, Default)]
struct Handled(Arc<(Mutex<Entries>, Condvar)>);

#[derive(Default)]
struct Entries {
    count: u64,
    times: BTreeMap<u64, u32>,
}

impl Handled {
    fn with<T>(&self, look: impl FnOnce(&mut Entries) -> T) -> T {
        look(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, line: &str) {
        if let Some(id) = id_of(line) {
            self.with(|entries| {
                entries.count += 1;
                *entries.times.entry(id).or_default() += 1;
            });
            self.0.1.notify_all();
        }
    }

    /// Waits until `count` entries were handled.
    fn wait(&self, count: u64) -> Result<()> {
        let (entries, changed) = &*self.0;
        let entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = Duration::from_secs(20);
        let (entries, _) = changed
            .wait_timeout_while(entries, patience, |entries| entries.count < count)
            .unwrap_or_else(PoisonError::into_inner);
        ensure!(
            entries.count >= count,
            "only {} of {count} were handled",
            entries.count
        );
        Ok(())
    }

    fn count(&self) -> u64 {
        self.with(|entries| entries.count)
    }

    fn times(&self, id: u64) -> u32 {
        self.with(|entries| entries.times.get(&id).copied().unwrap_or(0))
    }

    fn missing(&self, mut ids: impl Iterator<Item = u64>) -> usize {
        self.with(|entries| {
            ids.by_ref()
                .filter(|id| !entries.times.contains_key(id))
                .count()
        })
    }

    fn check_once(&self, ids: impl Iterator<Item = u64>) {
        for id in ids {
            assert_eq!(self.times(id), 1, "log {id}");
        }
    }
}

/// The id in a line such as `ann: log 7 INFO "order placed"`.
fn id_of(line: &str) -> Option<u64> {
    let (_, log) = line.split_once(": log ")?;
    log.split(' ').next()?.parse().ok()
}

fn start_worker(command: &mut Command, handled: &Handled) -> Result<Program> {
    let handled = handled.clone();
    let mut worker = Program::spawn_watched(command, move |line| handled.note(line))?;
    worker.expect(": waiting for")?;
    Ok(worker)
}

fn start_workers(server: &Server, count: usize, handled: &Handled) -> Result<Vec<Program>> {
    let workers = (0..count).map(|_| start_worker(&mut server.command(WORKER), handled));
    let workers = workers.collect::<Result<_>>()?;
    server.wait_for_subscriptions(SUBJECT, count)?;
    Ok(workers)
}

fn start_publisher(server: &Server, count: u64) -> Result<Program> {
    let mut command = server.command(PUBLISHER);
    Program::spawn(command.args(["--count", &count.to_string()]))
}

/// Runs a publisher to its end, and returns how many messages the server has.
fn publish(server: &Server, count: u64) -> Result<u64> {
    let ended = start_publisher(server, count)?.wait()?;
    ensure!(ended.success(), "{:?}", ended.stderr);
    summary_of(&ended)
}

/// The count of the last line, `[NAME: ]COUNT messages in …`.
fn summary_of(ended: &Ended) -> Result<u64> {
    let last = ended.stdout.last().context("nothing was printed")?;
    let (before, _) = last.split_once(" messages in ").context("no summary")?;
    let count = before.split(' ').next_back().unwrap_or_default();
    Ok(count.parse()?)
}

fn handled_by(ended: &Ended) -> Result<u64> {
    ensure!(ended.success(), "{:?}", ended.stderr);
    summary_of(ended)
}

/// Publishes anything, without a client library; returns when the server has it.
fn server_takes(server: &Server, payloads: &[&[u8]]) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port()))?;
    let mut bytes = b"CONNECT {\"verbose\":false}\r\n".to_vec();
    for payload in payloads {
        write!(bytes, "PUB {SUBJECT} {}\r\n", payload.len())?;
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"PING\r\n");
    stream.write_all(&bytes)?;
    let lines = BufReader::new(stream).lines();
    let mut lines = lines.map_while(Result::ok);
    ensure!(lines.any(|line| line == "PONG"), "the server hung up");
    Ok(())
}
