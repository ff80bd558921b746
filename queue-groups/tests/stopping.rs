//! Workers and publishers that are told to stop: what is lost, how long it takes, what they say.

use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testkit::{Cluster, Link, Program, Server, Signal};

use crate::support::{
    Handled, PUBLISHER, SUBJECT, WORKER, confirmed, count_of, publish, server_takes, start_worker,
};

#[test]
fn a_stopped_worker_loses_nothing() -> Result<()> {
    let server = Server::start()?;
    stop_workers(&server, 10, || server.command(WORKER), || Ok(()))
}

#[test]
fn a_stopped_worker_loses_nothing_over_a_round_trip_of_500_ms() -> Result<()> {
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    link.delay(Duration::from_millis(250));
    stop_workers(&server, 2, || command_over(&link, &server), || Ok(()))
}

#[test]
fn a_stopped_worker_loses_nothing_in_a_cluster() -> Result<()> {
    let cluster = Cluster::start(3)?;
    // The workers take turns, and never sit where the publisher is.
    let mut turn = 0;
    let publishers = &cluster.servers[0];
    let start = || {
        turn += 1;
        cluster.servers[1 + turn % 2].command(WORKER)
    };
    stop_workers(publishers, 10, start, || publishers.wait_for_interest(SUBJECT, 1))
}

#[test]
fn a_worker_stopped_in_a_servers_grace_period_loses_nothing() -> Result<()> {
    let config = "lame_duck_grace_period: \"60s\"\nlame_duck_duration: \"120s\"";
    let mut server = Server::options().config(config).start()?;
    let handled = Handled::default();
    let mut stopping = start_worker(&mut server.command(WORKER), &handled)?;
    let mut staying = start_worker(&mut server.command(WORKER), &handled)?;
    let feed = Feed::start(&server, &handled)?;
    // `nats-server --signal ldm=PID` sends this: no new connections, the old ones until later.
    signal("-USR2", server.id()?)?;
    handled.wait(1_000)?;
    while !server.log().iter().any(|line| line.contains("lame duck mode")) {
        thread::sleep(Duration::from_millis(1));
    }
    let stopped = stopping.stop()?;
    let published = feed.stop()?;
    handled.wait(published)?;
    assert_eq!(count_of(&stopped)? + count_of(&staying.stop()?)?, published);
    handled.check(1..=published, 1);
    Ok(())
}

/// Starts one worker more than stays, and stops it in the middle of the work, again and again.
/// `ready` is called when the first one is there, before anything is published.
fn stop_workers(
    server: &Server,
    times: usize,
    mut command: impl FnMut() -> Command,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let handled = Handled::default();
    let mut staying = start_worker(&mut command(), &handled)?;
    ready()?;
    let feed = Feed::start(server, &handled)?;
    let mut sum = 0;
    for _ in 0..times {
        let mut stopping = start_worker(&mut command(), &handled)?;
        stopping.expect(": log ")?;
        let ended = stopping.stop()?;
        assert_eq!(ended.stderr, [""; 0]);
        sum += count_of(&ended)?;
    }
    let published = feed.stop()?;
    handled.wait(published)?;
    sum += count_of(&staying.stop()?)?;
    handled.check(1..=published, 1);
    assert_eq!(sum, published);
    Ok(())
}

fn command_over(link: &Link, server: &Server) -> Command {
    let mut command = server.command(WORKER);
    command.env("NATS_URL", link.url());
    command
}

#[test]
fn a_worker_stops_soon_under_endless_load() -> Result<()> {
    let server = Server::start()?;
    let handled = Handled::default();
    let start = || start_worker(&mut server.command(WORKER), &handled);
    let (mut stopping, mut staying) = (start()?, start()?);
    let feed = Feed::start(&server, &handled)?;
    stopping.expect(": log ")?;
    let told = Instant::now();
    let stopped = stopping.stop()?;
    let late = told.elapsed();
    let published = feed.stop()?;
    handled.wait(published)?;
    assert_eq!(count_of(&stopped)? + count_of(&staying.stop()?)?, published);
    assert_eq!(stopped.stderr, [""; 0]);
    // If nats-server went on giving it messages, it would take them until 3 s were over.
    assert!(late < Duration::from_millis(2_900), "{late:?}");
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
        assert!(told.elapsed() < Duration::from_millis(2_900), "{:?}", told.elapsed());
    }
    Ok(())
}

#[test]
fn a_worker_finishes_the_work_it_was_given() -> Result<()> {
    let server = Server::start()?;
    let handled = Handled::default();
    let mut command = server.command(WORKER);
    let mut worker = start_worker(command.args(["--work", "10ms"]), &handled)?;
    // What it skips is not left behind.
    server_takes(&server, &[b"oops"])?;
    publish(&server, 10)?;
    worker.expect(": log 1 ")?;
    assert_eq!(count_of(&worker.stop()?)?, 10);
    handled.check(1..=10, 1);
    Ok(())
}

#[test]
fn a_worker_with_more_work_than_time_says_how_much_is_left() -> Result<()> {
    let server = Server::start()?;
    let handled = Handled::default();
    let mut command = server.command(WORKER);
    let mut worker = start_worker(command.args(["--work", "10ms"]), &handled)?;
    publish(&server, 2_000)?;
    worker.expect(": log 1 ")?;
    let told = Instant::now();
    let ended = worker.stop()?;
    let late = told.elapsed();
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    assert_eq!(ended.stderr.len(), 1, "{:?}", ended.stderr);
    let left = ended.stderr[0].split(' ').find_map(|word| word.parse::<u64>().ok());
    assert_eq!(left, Some(handled.missing(1..=2_000)), "{:?}", ended.stderr);
    assert!(late < Duration::from_secs(5), "{late:?}");
    Ok(())
}

#[test]
fn a_worker_stopped_while_the_server_is_away_has_nothing_left() -> Result<()> {
    let mut server = Server::start()?;
    let handled = Handled::default();
    let mut worker = start_worker(&mut server.command(WORKER), &handled)?;
    publish(&server, 30)?;
    handled.wait(30)?;
    server.kill()?;
    worker.expect_stderr("lost the connection")?;
    let told = Instant::now();
    assert_eq!(count_of(&worker.stop()?)?, 30);
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
    Ok(())
}

#[test]
fn a_worker_stopped_right_after_the_server_died_handles_what_it_has() -> Result<()> {
    let mut server = Server::start()?;
    let handled = Handled::default();
    let mut command = server.command(WORKER);
    let mut worker = start_worker(command.args(["--work", "100ms"]), &handled)?;
    publish(&server, 10)?;
    server.monitor_until("/connz", |connz| {
        let worker = &connz["connections"][0];
        worker["out_msgs"].as_u64() >= Some(10) && worker["pending_bytes"] == 0
    })?;
    worker.expect(": log 1 ")?;
    server.kill()?;
    assert_eq!(count_of(&worker.stop()?)?, 10);
    handled.check(1..=10, 1);
    Ok(())
}

#[test]
fn a_worker_on_a_dead_link_stops_in_time() -> Result<()> {
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    let mut worker = start_worker(&mut command_over(&link, &server), &Handled::default())?;
    // It cannot know: nothing arrives any more, and no connection is closed.
    link.cut();
    let told = Instant::now();
    assert!(worker.stop()?.success());
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
    Ok(())
}

#[test]
fn a_publisher_stopped_while_the_server_is_away_says_what_may_be_lost() -> Result<()> {
    let mut server = Server::start()?;
    let mut publisher = endless_publisher(&server)?;
    server.kill()?;
    publisher.expect_stderr("lost the connection")?;
    let told = Instant::now();
    let ended = publisher.stop()?;
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    assert_eq!(ended.stdout, [""; 0]);
    assert_eq!(ended.stderr.len(), 2, "{:?}", ended.stderr);
    assert!(ended.stderr[1].contains("may not have arrived"), "{:?}", ended.stderr);
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
    Ok(())
}

#[test]
fn a_stopped_publisher_says_how_many_the_server_has() -> Result<()> {
    let server = Server::start()?;
    let mut publisher = endless_publisher(&server)?;
    let ended = publisher.stop()?;
    assert_eq!(ended.stderr, [""; 0]);
    let received = server.monitor("/varz")?["in_msgs"].as_u64();
    // One more: its own message to itself.
    assert_eq!(received, Some(count_of(&ended)? + 1));
    Ok(())
}

/// A publisher that has begun.
fn endless_publisher(server: &Server) -> Result<Program> {
    let mut command = server.command(PUBLISHER);
    let publisher = Program::spawn(command.args(["--count", &u64::MAX.to_string()]))?;
    server.monitor_until("/varz", |varz| varz["in_msgs"].as_u64() > Some(1_000))?;
    Ok(publisher)
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
    let pid = worker.id();
    signal("-TERM", pid)?;
    let (ended, end) = channel();
    thread::spawn(move || ended.send(worker.wait()));
    let Ok(status) = end.recv_timeout(Duration::from_secs(10)) else {
        signal("-KILL", pid)?;
        bail!("it did not end");
    };
    assert_eq!(status?.code(), Some(1), "its entries are not printed");
    drop(stdout);
    Ok(())
}

fn signal(name: &str, pid: u32) -> Result<()> {
    let status = Command::new("kill").args([name, &pid.to_string()]).status()?;
    ensure!(status.success(), "cannot send {name} to {pid}");
    Ok(())
}

/// Publishes log entries without a pause, on a connection of its own. It is never far ahead of the
/// workers: what they hold when they are told to stop is handled in time on a busy machine, too.
struct Feed {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Feed {
    /// How many messages may be published and not handled.
    const AHEAD: u64 = 2_000;
    const CHUNK: u64 = 100;

    fn start(server: &Server, handled: &Handled) -> Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port()))?;
        stream.write_all(b"CONNECT {\"verbose\":false}\r\n")?;
        confirmed(&stream)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, handled) = (Arc::clone(&stop), handled.clone());
        let thread = thread::spawn(move || {
            let mut published = 0;
            let mut bytes = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                bytes.clear();
                for id in published + 1..=published + Self::CHUNK {
                    let entry = format!(r#"{{"id":{id},"level":"INFO","message":"endless"}}"#);
                    write!(bytes, "PUB {SUBJECT} {}\r\n{entry}\r\n", entry.len())?;
                }
                stream.write_all(&bytes)?;
                published += Self::CHUNK;
                handled.wait((published + Self::CHUNK).saturating_sub(Self::AHEAD))?;
            }
            confirmed(&stream)?;
            Ok(published)
        });
        Ok(Self { stop, thread })
    }

    /// Ends it, and returns how many messages nats-server has got.
    fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let published = self.thread.join();
        published.ok().context("the feed panicked")?
    }
}
