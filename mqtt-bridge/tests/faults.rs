//! What happens to readings when something dies.

mod support;

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures::StreamExt;
use testkit::{Ended, Link, Program, Server};

use support::{BACKEND, Mqtt, RECORDER, SENSOR, reading, ready, seqs, spawn};

/// How often a stream holds each sequence number.
async fn stored(server: &Server) -> Result<Vec<u64>> {
    let client = async_nats::connect(server.url()).await?;
    let jetstream = async_nats::jetstream::new(client);
    let stream = jetstream.get_stream("readings").await?;
    let consumer = stream
        .create_consumer(pull::Config { ack_policy: AckPolicy::None, ..Default::default() })
        .await?;
    let count = stream.cached_info().state.messages;
    let mut messages = consumer.messages().await?.take(usize::try_from(count)?);
    let mut seqs = Vec::new();
    while let Some(message) = messages.next().await {
        seqs.push(support::parse(&message?.payload)?.seq);
    }
    Ok(seqs)
}

#[test]
fn no_reading_of_qos_1_is_lost_while_broker_and_recorder_die() -> Result<()> {
    const COUNT: u64 = 5_000;
    let mut server = Server::start()?;
    let mut recorder = ready(&server, RECORDER, "")?;
    let args = format!("--count {COUNT} --interval 1ms");
    let mut sensor = spawn(&server, SENSOR, &args)?.patience(Duration::from_secs(60));

    sensor.expect("#1000: ")?;
    server.kill()?;
    server.restart()?;
    sensor.expect("#2000: ")?;
    let before = recorder.stop()?;
    ensure!(before.success(), "{:?}", before.stderr);
    sensor.expect("#3000: ")?;
    server.kill()?;
    server.restart()?;
    sensor.expect("#4000: ")?;
    let mut recorder = ready(&server, RECORDER, "")?;
    let ended = sensor.wait()?;
    ensure!(ended.success(), "{:?}", ended.stderr);
    let last = ended.stdout.last().context("no summary")?;
    ensure!(last.starts_with("5000 readings in "), "{last}");
    for said in ["lost the connection", "again"] {
        let times = ended.stderr.iter().filter(|line| line.contains(said)).count();
        ensure!(times == 2, "{:?}", ended.stderr);
    }

    let all = |lines: &[String]| -> HashSet<u64> {
        seqs(&before.stdout).into_iter().chain(seqs(lines)).collect()
    };
    if !recorder.wait_for(|lines| all(lines).len() as u64 == COUNT) {
        let known = all(&recorder.stdout());
        let missing: Vec<_> = (1..=COUNT).filter(|seq| !known.contains(seq)).collect();
        let stored = tokio::runtime::Runtime::new()?.block_on(stored(&server))?;
        let stored: Vec<_> = missing.iter().filter(|seq| stored.contains(seq)).collect();
        bail!("not recorded: {missing:?}, of which the stream has {stored:?}");
    }
    // What QoS 1 brought twice is recorded once.
    let once = |lines: &[String]| {
        let seqs = seqs(lines);
        seqs.iter().collect::<HashSet<_>>().len() == seqs.len()
    };
    assert!(once(&before.stdout) && once(&recorder.stop()?.stdout));
    Ok(())
}

#[test]
fn qos_0_loses_what_was_on_its_way() -> Result<()> {
    const COUNT: u64 = 5_000;
    let mut server = Server::start()?;
    ready(&server, RECORDER, "")?.stop()?;
    let args = format!("--count {COUNT} --interval 1ms --qos 0");
    let mut sensor = spawn(&server, SENSOR, &args)?.patience(Duration::from_secs(60));
    for at in ["#1000: ", "#3000: "] {
        sensor.expect(at)?;
        server.kill()?;
        server.restart()?;
    }
    ensure!(sensor.wait()?.success(), "QoS 0 has nothing to fail for");
    let runtime = tokio::runtime::Runtime::new()?;
    let stored = runtime.block_on(stored(&server))?;
    writeln!(std::io::stderr(), "QoS 0: {} of {COUNT} stored", stored.len())?;
    // Never twice; how many are lost is chance.
    let mut once = stored.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), stored.len());
    Ok(())
}

#[test]
fn a_broker_that_has_forgotten_the_session_gets_the_readings_again() -> Result<()> {
    let mut server = Server::start()?;
    let link = Link::to(server.mqtt_port())?;
    let mut command = server.command(SENSOR);
    command
        .env("MQTT_URL", format!("mqtt://127.0.0.1:{}", link.port()))
        .env("RUST_LOG", "debug")
        .args(["--count", "300", "--interval", "1ms"]);
    let mut sensor = Program::spawn(&mut command)?;
    sensor.expect("#50: ")?;
    // Readings leave, and no acknowledgement comes back.
    link.cut();
    sensor.expect_stderr("took #100")?;
    server.kill()?;
    fs::remove_dir_all(server.folder().join("store"))?;
    server.restart()?;
    let mut recorder = ready(&server, RECORDER, "")?;
    link.reset();
    link.heal();
    let ended = sensor.wait()?;
    ensure!(ended.success(), "{:?}", ended.stderr);
    // From the first that was not acknowledged on, all are there.
    recorder.expect("#300: ")?;
    let numbers = seqs(&recorder.stop()?.stdout);
    let first = numbers.first().context("nothing recorded")?;
    assert!(*first <= 100, "{first}");
    assert_eq!(numbers, (*first..=300).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn what_was_acknowledged_just_before_the_broker_died_is_sent_again() -> Result<()> {
    let mut server = Server::start()?;
    ready(&server, RECORDER, "")?.stop()?;
    server.kill()?;
    let [store, empty] = ["store", "empty"].map(|name| server.folder().join(name));
    let copied = Command::new("cp").arg("-r").args([&store, &empty]).status()?;
    ensure!(copied.success(), "cannot copy the store");
    server.restart()?;

    let mut sensor = spawn(&server, SENSOR, "--count 60 --interval 10ms")?;
    // It is acknowledged, and the broker takes it along with all that it has stored.
    sensor.expect("#40: ")?;
    server.kill()?;
    fs::remove_dir_all(&store)?;
    fs::rename(&empty, &store)?;
    server.restart()?;
    let mut recorder = ready(&server, RECORDER, "")?;
    recorder.expect("#40: ")?;
    recorder.expect("#60: ")?;
    let numbers = seqs(&recorder.stop()?.stdout);
    let first = numbers.first().context("nothing recorded")?;
    assert_eq!(numbers, (*first..=60).collect::<Vec<_>>());
    // Each line comes once, whatever is acknowledged twice.
    assert_eq!(seqs(&sensor.wait()?.stdout), (1..=60).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn the_sensor_is_back_within_a_second_of_its_broker_and_says_so_once() -> Result<()> {
    let mut server = Server::start()?;
    let mut sensor = ready(&server, SENSOR, "--interval 5ms")?;
    let mut backend = ready(&server, BACKEND, "")?;
    backend.expect("sensor-1 #")?;
    server.kill()?;
    sensor.expect_stderr("lost the connection to mqtt://127.0.0.1:")?;
    let before = sensor.stdout().len();
    // Long enough for the pauses between attempts to have grown.
    std::thread::sleep(Duration::from_secs(2));
    server.restart()?;
    let start = Instant::now();
    sensor.expect_stderr("again")?;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    // A reading that is acknowledged tells that the server has dealt with what came before it.
    assert!(sensor.wait_for(|lines| lines.len() > before));
    let mut watcher = Mqtt::connect(&server, "watcher")?;
    watcher.subscribe("device/status/+")?;
    assert_eq!(&*watcher.next()?.payload, b"online");
    sensor.expect("#")?;
    let ended = sensor.stop()?;
    assert!(ended.success());
    assert_eq!(ended.stderr.len(), 2, "{:?}", ended.stderr);
    Ok(())
}

#[test]
fn a_sensor_that_is_back_says_so_after_its_last_will() -> Result<()> {
    let server = Server::start()?;
    let mut watcher = Mqtt::connect(&server, "watcher")?;
    watcher.subscribe("device/status/+")?;
    let link = Link::to(server.mqtt_port())?;
    let mut command = server.command(SENSOR);
    command.env("MQTT_URL", format!("mqtt://127.0.0.1:{}", link.port()));
    let mut sensor = Program::spawn(&mut command)?;
    assert_eq!(&*watcher.next()?.payload, b"online");
    sensor.expect("sends to device/temp")?;
    // The broker is there, and sees the connection break.
    link.reset();
    assert_eq!(&*watcher.next()?.payload, b"offline");
    assert_eq!(&*watcher.next()?.payload, b"online");
    assert!(sensor.stop()?.success());
    Ok(())
}

#[test]
fn a_sensor_can_be_stopped_while_its_broker_is_away() -> Result<()> {
    let mut server = Server::start()?;
    let mut sensor = ready(&server, SENSOR, "--interval 50ms")?;
    sensor.expect("#3: ")?;
    server.kill()?;
    sensor.expect_stderr("lost the connection")?;
    let start = Instant::now();
    let ended = sensor.stop()?;
    assert!(ended.success(), "{:?}", ended.stderr);
    assert!(start.elapsed() < Duration::from_secs(5));
    Ok(())
}

#[test]
fn a_sensor_that_is_stopped_with_unacknowledged_readings_says_so_and_fails() -> Result<()> {
    let mut server = Server::start()?;
    let link = Link::to(server.mqtt_port())?;
    let mut command = server.command(SENSOR);
    command
        .env("MQTT_URL", format!("mqtt://127.0.0.1:{}", link.port()))
        .env("RUST_LOG", "debug")
        .args(["--interval", "10ms"]);
    let mut sensor = Program::spawn(&mut command)?;
    sensor.expect("#3: ")?;
    link.cut();
    sensor.expect_stderr("took #20")?;
    server.kill()?;
    let start = Instant::now();
    let ended = sensor.stop()?;
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(ended.code(), Some(1));
    let last = ended.stderr.last().context("no error")?;
    assert!(last.contains("stopped before the broker acknowledged"), "{last}");
    Ok(())
}

#[test]
fn two_sensors_with_one_id_do_not_fight_for_ever() -> Result<()> {
    let server = Server::start()?;
    let mut first = ready(&server, SENSOR, "--interval 20ms")?;
    let mut second = ready(&server, SENSOR, "--interval 20ms")?;
    // Each throws the other out, until one gives in, and the other one goes on. (It is the newcomer
    // that gives in where the other one has run for some time.)
    let begun = Instant::now();
    while first.is_running()? && second.is_running()? {
        ensure!(begun.elapsed() < Duration::from_secs(20), "they fight on");
        std::thread::sleep(Duration::from_millis(10));
    }
    if !first.is_running()? {
        std::mem::swap(&mut first, &mut second);
    }
    let ended = second.wait()?;
    assert_eq!(ended.code(), Some(1));
    let last = ended.stderr.last().context("no error")?;
    assert!(last.contains("does another sensor use the id of this one?"), "{last}");
    let before = first.stdout().len();
    assert!(first.wait_for(|lines| lines.len() > before + 3));
    assert!(first.stop()?.success());
    Ok(())
}

/// What a program said that failed at once.
fn one_line(ended: &Ended) -> Result<&str> {
    match (ended.code(), &ended.stderr[..]) {
        (Some(1), [line]) => Ok(line),
        _ => bail!("{ended:?}"),
    }
}

#[test]
fn without_a_broker_there_is_one_clear_line() -> Result<()> {
    let mut server = Server::start()?;
    let url = server.mqtt_url();
    let nats = format!("mqtt://127.0.0.1:{}", server.port());
    let ended = spawn(&server, SENSOR, &format!("--broker {nats}"))?.wait()?;
    let line = one_line(&ended)?;
    assert!(line.contains("does not speak MQTT"), "{line}");

    server.kill()?;
    let ended = spawn(&server, SENSOR, "")?.wait()?;
    let line = one_line(&ended)?;
    let expected = format!("error: cannot connect to {url}: ");
    assert!(line.starts_with(&expected), "{line}");
    assert!(line.contains("cargo xtask up"), "{line}");
    Ok(())
}

#[test]
fn a_wrong_password_is_one_clear_line_and_the_right_one_may_be_in_the_url() -> Result<()> {
    let users = r#"authorization { users: [ { user: "me", password: "p@ss/word" } ] }"#;
    let server = Server::options().config(users).start()?;
    let ended = spawn(&server, SENSOR, "--user me --password wrong")?.wait()?;
    let line = one_line(&ended)?;
    assert!(line.contains("user or password not accepted"), "{line}");

    let port = server.mqtt_port();
    let url = format!("--count 1 --broker mqtt://me:p%40ss%2Fword@127.0.0.1:{port}");
    let ended = spawn(&server, SENSOR, &url)?.wait()?;
    assert!(ended.success(), "{:?}", ended.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_whose_consumer_or_stream_is_deleted_goes_on() -> Result<()> {
    let server = Server::start()?;
    let mut recorder = ready(&server, RECORDER, "")?;
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await?);
    let publish = async |seq: u64| {
        let payload = reading("sensor-1", seq, 1_000 + seq).into();
        jetstream.publish("device.temp", payload).await?.await?;
        anyhow::Ok(())
    };
    publish(1).await?;
    recorder.expect("#1: ")?;
    let stream = jetstream.get_stream("readings").await?;
    stream.delete_consumer("recorder").await?;
    recorder.expect_stderr("the consumer recorder was gone")?;
    publish(2).await?;
    recorder.expect("#2: ")?;
    jetstream.delete_stream("readings").await?;
    recorder.expect_stderr("the consumer recorder was gone")?;
    while jetstream.get_stream("readings").await.is_err() {}
    publish(3).await?;
    recorder.expect("#3: ")?;
    let ended = recorder.stop()?;
    assert!(ended.success());
    assert_eq!(seqs(&ended.stdout), [1, 2, 3]);
    Ok(())
}

#[test]
fn recorder_and_backend_can_be_stopped_while_the_server_is_away() -> Result<()> {
    let mut server = Server::start()?;
    let mut programs = [ready(&server, RECORDER, "")?, ready(&server, BACKEND, "")?];
    server.kill()?;
    for program in &mut programs {
        program.expect_stderr("lost the connection")?;
        let start = Instant::now();
        let ended = program.stop()?;
        assert!(ended.success(), "{:?}", ended.stderr);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    Ok(())
}

#[test]
fn a_server_without_jetstream_is_no_place_for_a_recorder() -> Result<()> {
    let server = Server::options().no_jetstream().start()?;
    let start = Instant::now();
    let ended = spawn(&server, RECORDER, "")?.wait()?;
    assert!(start.elapsed() < Duration::from_secs(3));
    let line = one_line(&ended)?;
    assert!(line.contains("JetStream is off"), "{line}");
    Ok(())
}
