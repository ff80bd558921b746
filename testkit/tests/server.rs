//! What the tests of the experiments rely on.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::{Pid, test_kill_process};
use testkit::{Certificates, Cluster, Link, Program, Server};

#[test]
fn it_answers_on_every_port_as_soon_as_it_is_started() -> Result<()> {
    let server = Server::start()?;
    TcpStream::connect(("127.0.0.1", server.port()))?;
    TcpStream::connect(("127.0.0.1", server.mqtt_port()))?;
    assert!(server.monitor("/jsz")?["config"]["store_dir"].is_string());
    Ok(())
}

#[test]
fn a_killed_server_comes_back_on_its_ports_with_its_store() -> Result<()> {
    let mut server = Server::start()?;
    let port = server.port();
    let mut client = Client::connect(port)?;
    client.request("$JS.API.STREAM.CREATE.kept", r#"{"name":"kept","subjects":["kept"]}"#)?;
    client.request("kept", "one")?;
    server.kill()?;
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    server.restart()?;
    assert_eq!(server.port(), port);
    assert_eq!(server.monitor("/jsz")?["messages"], 1);
    Ok(())
}

#[test]
fn a_stopped_server_logs_its_end() -> Result<()> {
    let mut server = Server::start()?;
    server.stop()?;
    server.restart()?;
    let log = server.log().join("\n");
    assert!(log.contains("Initiating Shutdown"), "{log}");
    assert_eq!(log.matches("Server is ready").count(), 2, "{log}");
    Ok(())
}

#[test]
fn a_server_that_cannot_start_is_an_error_with_its_log() -> Result<()> {
    let error = Server::options().config("nonsense: { ").start().err().context("it started")?;
    assert!(format!("{error:#}").contains("Parse error"), "{error:#}");
    Ok(())
}

#[test]
fn jetstream_can_be_switched_off() -> Result<()> {
    let server = Server::options().no_jetstream().start()?;
    assert_eq!(server.monitor("/jsz")?["disabled"], true);
    Ok(())
}

#[test]
fn a_server_demands_tls_when_told_to() -> Result<()> {
    let certificates = Certificates::new()?;
    let server = Server::options().tls(&certificates.server_config(false)).start()?;
    assert!(server.url().starts_with("tls://"));
    let info = Client::connect(server.port())?.info;
    assert!(info.contains(r#""tls_required":true"#), "{info}");
    Ok(())
}

#[test]
fn three_servers_are_one_cluster_that_stores_three_copies() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let mut client = Client::connect(cluster.servers[0].port())?;
    let stream = r#"{"name":"kept","subjects":["kept"],"num_replicas":3}"#;
    let answer = client.request("$JS.API.STREAM.CREATE.kept", stream)?;
    assert!(answer.contains(r#""num_replicas":3"#), "{answer}");
    Ok(())
}

#[test]
fn nothing_is_left_when_a_server_is_dropped() -> Result<()> {
    let mut server = Server::start()?;
    let (pid, folder) = (server.id()?, server.folder().to_owned());
    // It makes files in its folder until it ends.
    let mut client = Client::connect(server.port())?;
    let busy = std::thread::spawn(move || {
        for number in 0.. {
            let stream = format!(r#"{{"name":"s{number}","subjects":["s{number}"]}}"#);
            let subject = format!("$JS.API.STREAM.CREATE.s{number}");
            if client.request(&subject, &stream).is_err() {
                break;
            }
        }
    });
    server.monitor_until("/jsz", |jsz| jsz["streams"].as_u64() > Some(10))?;
    drop(server);
    assert!(busy.join().is_ok());
    assert!(is_gone(pid)?);
    assert!(!folder.exists());
    Ok(())
}

/// Set in the environment of the process that the test below kills.
const VICTIM: &str = "victim";

#[test]
fn nothing_is_left_when_the_test_process_is_killed() -> Result<()> {
    if std::env::var_os(VICTIM).is_some() {
        let mut server = Server::start()?;
        let mut out = std::io::stderr();
        writeln!(out, "{VICTIM} {} {}", server.id()?, server.folder().display())?;
        std::thread::park();
    }
    let mut victim = Command::new(std::env::current_exe()?);
    victim.args(["--exact", "nothing_is_left_when_the_test_process_is_killed", "--nocapture"]);
    let mut victim = Program::spawn(victim.env(VICTIM, "1"))?;
    let line = victim.expect_stderr(VICTIM)?;
    let mut words = line.split(' ').skip(1);
    let pid: u32 = words.next().context("no pid")?.parse()?;
    let folder = PathBuf::from(words.next().context("no folder")?);
    assert!(!is_gone(pid)? && folder.exists());
    victim.kill()?;
    until_gone(pid)?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while folder.exists() {
        ensure!(Instant::now() < deadline, "{} is still there", folder.display());
        std::thread::yield_now();
    }
    Ok(())
}

#[test]
fn what_a_program_has_started_ends_with_it() -> Result<()> {
    let mut shell = Command::new("/bin/sh");
    let mut shell = Program::spawn(shell.args(["-c", "sleep 1000 & echo $!; wait"]))?;
    let pid: u32 = shell.expect("")?.parse()?;
    assert!(!is_gone(pid)?);
    drop(shell);
    until_gone(pid)
}

#[test]
fn a_link_delays_and_stays_silent_when_it_is_cut() -> Result<()> {
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    let mut client = Client::connect(link.port())?;

    link.delay(Duration::from_millis(20));
    let begun = Instant::now();
    client.ping()?;
    let round_trip = begun.elapsed();
    assert!(round_trip >= Duration::from_millis(40), "{round_trip:?}");

    link.cut();
    client.writer.write_all(b"PING\r\n")?;
    client.writer.set_read_timeout(Some(Duration::from_millis(200)))?;
    assert!(client.line().is_err());
    link.heal();
    client.writer.set_read_timeout(Some(Duration::from_secs(60)))?;
    // nats-server may have sent a PING of its own.
    while client.line()? != "PONG" {}

    link.reset();
    assert!(client.ping().is_err());
    Client::connect(link.port())?.ping()
}

#[test]
fn a_cut_link_keeps_nothing_for_a_client_that_has_left() -> Result<()> {
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    link.cut();
    for _ in 0..20 {
        // nats-server sends its INFO to each.
        let client = TcpStream::connect(("127.0.0.1", link.port()))?;
        until_connections(&link, 1)?;
        drop(client);
        until_connections(&link, 0)?;
    }
    Ok(())
}

#[test]
fn a_tap_sees_all_that_was_sent_to_a_client_that_has_left() -> Result<()> {
    let server = Server::start()?;
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let link = Link::tapped(server.port(), move |_, _, bytes| {
        // Each payload is this byte, and nothing else on the line has it.
        count.fetch_add(bytes.split(|byte| *byte == b'!').count() - 1, Ordering::Relaxed);
    })?;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let publisher = threads.spawn(|| {
            let mut publisher = Client::connect(server.port())?;
            while !is_over.load(Ordering::Relaxed) {
                publisher.writer.write_all(&b"PUB busy 1\r\n!\r\n".repeat(100))?;
            }
            anyhow::Ok(())
        });
        let rounds = (0..20).try_for_each(|_| {
            let mut client = Client::connect(link.port())?;
            client.writer.write_all(b"SUB busy 2\r\n")?;
            client.line()?;
            drop(client);
            until_connections(&link, 0)
        });
        is_over.store(true, Ordering::Relaxed);
        rounds.and(publisher.join().map_err(|_| anyhow!("the publisher panicked"))?)
    })?;
    let closed = server.monitor_until("/connz?state=closed", |closed| closed["total"] == 21)?;
    let connections = closed["connections"].as_array().context("no connections")?;
    let sent: u64 = connections.iter().filter_map(|it| it["out_msgs"].as_u64()).sum();
    assert_eq!(seen.load(Ordering::Relaxed) as u64, sent);
    Ok(())
}

#[test]
fn a_program_shows_its_lines_and_its_end() -> Result<()> {
    let mut shell = Command::new("/bin/sh");
    shell.args([
        "-c",
        "trap 'echo bye; exit 3' TERM; echo ready; echo oops >&2; while :; do sleep 0.01; done",
    ]);
    let mut program = Program::spawn(&mut shell)?;
    program.expect("ready")?;
    program.expect_stderr("oops")?;
    assert!(program.is_running()?);
    let ended = program.stop()?;
    assert_eq!((ended.code(), ended.stdout), (Some(3), vec!["ready".to_owned(), "bye".to_owned()]));
    Ok(())
}

#[test]
fn a_line_that_does_not_come_is_an_error_with_the_lines_that_came() -> Result<()> {
    let mut echo = Command::new("/bin/sh");
    let mut program = Program::spawn(echo.args(["-c", "echo something else"]))?;
    let error = program.expect("the line").err().context("it came")?;
    assert!(error.to_string().contains("something else"), "{error}");
    Ok(())
}

/// When a `Program` is dropped, its process group is killed: the number must still be its own.
#[test]
fn no_other_process_gets_the_id_of_a_program_before_it_is_dropped() -> Result<()> {
    let mut program = Program::spawn(Command::new("/bin/sh").args(["-c", "exit 7"]))?;
    assert_eq!(program.wait()?.code(), Some(7));
    let pid = program.id();
    assert!(!is_gone(pid)?);
    assert!(!program.is_running()?);
    assert_eq!(program.wait()?.code(), Some(7));
    drop(program);
    assert!(is_gone(pid)?);

    let mut killed = Program::spawn(Command::new("sleep").arg("1000"))?;
    killed.kill()?;
    assert!(!is_gone(killed.id())?);
    assert_eq!(killed.wait()?.status.signal(), Some(9));
    Ok(())
}

/// Waits for the end of a process that is not a child of this one.
fn until_connections(link: &Link, count: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while link.connections() != count {
        ensure!(Instant::now() < deadline, "{} connections", link.connections());
        std::thread::yield_now();
    }
    Ok(())
}

fn until_gone(pid: u32) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_gone(pid)? {
        ensure!(Instant::now() < deadline, "{pid} is still there");
        std::thread::yield_now();
    }
    Ok(())
}

fn is_gone(pid: u32) -> Result<bool> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("no pid")?;
    Ok(test_kill_process(pid).is_err())
}

/// A client that knows just enough of NATS for these tests.
struct Client {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    info: String,
}

impl Client {
    fn connect(port: u16) -> Result<Self> {
        let writer = TcpStream::connect(("127.0.0.1", port))?;
        writer.set_read_timeout(Some(Duration::from_secs(60)))?;
        let reader = BufReader::new(writer.try_clone()?);
        let mut client = Self { reader, writer, info: String::new() };
        client.info = client.line()?;
        client.writer.write_all(b"CONNECT {\"verbose\":false}\r\nSUB inbox 1\r\n")?;
        Ok(client)
    }

    fn ping(&mut self) -> Result<()> {
        self.writer.write_all(b"PING\r\n")?;
        let answer = self.line()?;
        ensure!(answer == "PONG", "{answer:?}");
        Ok(())
    }

    fn request(&mut self, subject: &str, payload: &str) -> Result<String> {
        write!(self.writer, "PUB {subject} inbox {}\r\n{payload}\r\n", payload.len())?;
        while !self.line()?.starts_with("MSG") {}
        self.line()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.reader.read_line(&mut line)? > 0, "the connection is closed");
        Ok(line.trim_end().to_owned())
    }
}
