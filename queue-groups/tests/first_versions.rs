//! What the first versions lose, and the services under the same fault.

use std::io::{self, BufRead, BufReader, Write, stderr};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use testkit::{Ended, Program, Server, Signal, example};

use crate::support::{
    Handled, PUBLISHER, SUBJECT, WORKER, count_of, publish, server_takes, start_worker,
};

fn first_worker() -> PathBuf {
    example("first-log-worker")
}

fn first_publisher() -> PathBuf {
    example("first-log-publisher")
}

#[test]
fn first_versions_share_the_work() -> Result<()> {
    let server = Server::start()?;
    let handled = Handled::default();
    let start = || start_worker(&mut server.command(first_worker()), &handled);
    let _workers = [start()?, start()?, start()?];
    server.wait_for_subscriptions(SUBJECT, 3)?;
    let ended = Program::spawn(&mut server.command(first_publisher()))?.wait()?;
    assert!(ended.success(), "{ended:?}");
    assert_eq!(ended.stdout, ["sent 30 messages"]);
    handled.wait(30)?;
    handled.check(1..=30, 1);
    Ok(())
}

#[test]
fn first_versions_and_services_work_together() -> Result<()> {
    let server = Server::start()?;
    let handled = Handled::default();
    let _first = start_worker(&mut server.command(first_worker()), &handled)?;
    let mut service = start_worker(&mut server.command(WORKER), &handled)?;
    server.wait_for_subscriptions(SUBJECT, 2)?;
    for publisher in [first_publisher(), PUBLISHER.into()] {
        let ended = Program::spawn(&mut server.command(publisher))?.wait()?;
        assert!(ended.success(), "{ended:?}");
    }
    handled.wait(60)?;
    handled.check(1..=30, 2);
    let count = count_of(&service.stop()?)?;
    assert!(0 < count && count < 60, "{count} of 60 is no share");
    Ok(())
}

#[test]
fn a_first_worker_told_to_stop_loses_what_it_was_given() -> Result<()> {
    for signal in [Signal::INT, Signal::TERM] {
        let (handled, ended) = stop_a_paused_worker(first_worker(), signal)?;
        let lost = handled.missing(1..=MESSAGES);
        writeln!(stderr(), "{signal:?}: lost {lost} of {MESSAGES}")?;
        assert_eq!(ended.code(), None, "the signal itself ends it: {ended:?}");
        assert!(lost > MESSAGES / 2);
    }
    Ok(())
}

#[test]
fn a_paused_worker_told_to_stop_handles_what_it_was_given() -> Result<()> {
    for signal in [Signal::INT, Signal::TERM] {
        let (handled, ended) = stop_a_paused_worker(WORKER.into(), signal)?;
        assert_eq!(count_of(&ended)?, MESSAGES);
        handled.check(1..=MESSAGES, 1);
        assert_eq!(ended.stderr, [""; 0]);
    }
    Ok(())
}

const MESSAGES: u64 = 1_000;

/// Pauses a worker, as a busy machine does, publishes, and tells the worker to stop before it goes
/// on.
fn stop_a_paused_worker(worker: PathBuf, signal: Signal) -> Result<(Handled, Ended)> {
    let server = Server::start()?;
    let handled = Handled::default();
    let mut worker = start_worker(&mut server.command(worker), &handled)?;
    server.wait_for_subscriptions(SUBJECT, 1)?;
    worker.signal(Signal::STOP)?;
    publish(&server, MESSAGES)?;
    server.monitor_until("/varz", |varz| varz["out_msgs"].as_u64() >= Some(MESSAGES))?;
    worker.signal(signal)?;
    worker.signal(Signal::CONT)?;
    let ended = worker.wait()?;
    Ok((handled, ended))
}

#[test]
fn a_malformed_message_ends_a_first_worker() -> Result<()> {
    let server = Server::start()?;
    let handled = Handled::default();
    let mut worker = start_worker(&mut server.command(first_worker()), &handled)?;
    server.wait_for_subscriptions(SUBJECT, 1)?;
    let good = br#"{"id":1,"level":"INFO","message":"before"}"#;
    let lost = br#"{"id":2,"level":"INFO","message":"behind"}"#;
    server_takes(&server, &[good, b"oops", lost])?;
    let ended = worker.wait()?;
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    assert!(ended.stderr[0].contains("expected value"), "{ended:?}");
    handled.check(1..=1, 1);
    assert_eq!(handled.missing(2..=2), 1);
    Ok(())
}

#[test]
fn a_first_worker_that_lags_behind_drops_messages_in_silence() -> Result<()> {
    let server = Server::start()?;
    let handled = Handled::default();
    // What it prints is not read until this channel is closed: it stands still at a full pipe.
    let (reading, held) = channel::<()>();
    let noted = handled.clone();
    let mut worker = Program::spawn_watched(&mut server.command(first_worker()), move |line| {
        if line.contains(": log ") {
            let _ = held.recv();
        }
        noted.note(line);
    })?;
    worker.expect(": waiting for")?;
    server.wait_for_subscriptions(SUBJECT, 1)?;
    let count = 300_000;
    publish(&server, count)?;
    server.monitor_until("/connz", |connz| {
        let worker = &connz["connections"][0];
        worker["out_msgs"].as_u64() == Some(count) && worker["pending_bytes"] == 0
    })?;
    drop(reading);
    // Sent until the worker has room for it. Behind it there is nothing left to handle.
    while handled.missing(0..=0) > 0 {
        assert!(worker.is_running()?);
        server_takes(&server, &[br#"{"id":0,"level":"INFO","message":"the last"}"#])?;
        thread::sleep(Duration::from_millis(10));
    }
    let lost = handled.missing(1..=count);
    writeln!(stderr(), "lost {lost} of {count}")?;
    // All but the worker's buffer, and what the system's buffers held while the worker stood still.
    assert!(lost > 100_000);
    assert_eq!(worker.stderr(), [""; 0]);
    Ok(())
}

#[test]
fn a_first_publisher_says_sent_though_nothing_has_arrived() -> Result<()> {
    let server = Server::start()?;
    let url = cable_pulled_at_the_first_message(server.port())?;
    let mut first = server.command(first_publisher());
    let ended = Program::spawn(first.env("NATS_URL", &url))?.wait()?;
    assert!(ended.success(), "{ended:?}");
    assert_eq!(ended.stdout, ["sent 30 messages"]);
    assert_eq!(server.monitor("/varz")?["in_msgs"], 0);
    Ok(())
}

#[test]
fn a_publisher_whose_messages_may_not_have_arrived_says_so() -> Result<()> {
    let server = Server::start()?;
    let url = cable_pulled_at_the_first_message(server.port())?;
    let mut service = server.command(PUBLISHER);
    let ended = Program::spawn(service.env("NATS_URL", &url))?.wait()?;
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    assert_eq!(ended.stdout, [""; 0]);
    assert!(ended.stderr.iter().any(|line| line.contains("may not have arrived")), "{ended:?}");
    assert_eq!(server.monitor("/varz")?["in_msgs"], 0);
    Ok(())
}

/// A network in front of nats-server that carries what a client sends until it publishes, and
/// swallows the rest: neither side is told.
fn cable_pulled_at_the_first_message(port: u16) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("nats://{}", listener.local_addr()?);
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client?;
            let mut server = TcpStream::connect(("127.0.0.1", port))?;
            let (mut answers, mut to_client) = (server.try_clone()?, client.try_clone()?);
            thread::spawn(move || io::copy(&mut answers, &mut to_client));
            let (mut from_client, mut line) = (BufReader::new(client), Vec::new());
            while from_client.read_until(b'\n', &mut line)? > 0 && !line.starts_with(b"PUB ") {
                server.write_all(&line)?;
                line.clear();
            }
            io::copy(&mut from_client, &mut io::sink())?;
        }
        io::Result::Ok(())
    });
    Ok(url)
}
