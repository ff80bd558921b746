//! What happens to readings, presence and commands if something dies.

use std::collections::HashSet;
use std::fs;
use std::io::{Write, stderr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, stream};
use serde_json::Value;
use testkit::{Ended, Link, Program, Server, Signal};

use crate::support::retained::{eventually, wait_for_retained};
use crate::support::stored::stored;
use crate::support::{BACKEND, Mqtt, PATIENCE, RECORDER, SENSOR, reading, ready, seqs, spawn};

/// Starts a sensor whose broker is at the end of a link. On stderr it says which readings it has
/// taken.
fn sensor_behind(link: &Link, server: &Server, args: &str) -> Result<Program> {
    let mut command = server.command(SENSOR);
    command
        .env("MQTT_URL", format!("mqtt://127.0.0.1:{}", link.port()))
        .env("RUST_LOG", "debug")
        .args(args.split_whitespace());
    Ok(Program::spawn(&mut command)?.timeout(PATIENCE))
}

/// The number of the last reading that a program has printed.
fn last_seq(program: &Program) -> Result<u64> {
    seqs(&program.stdout()).last().copied().context("no reading yet")
}

#[test]
fn no_reading_of_qos_1_is_lost_while_broker_and_recorder_die() -> Result<()> {
    let mut server = Server::start()?;
    let mut recorder = ready(&server, RECORDER, "")?;
    let mut sensor = spawn(&server, SENSOR, "--interval 1ms")?;

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
    sensor.expect("#5000: ")?;
    let ended = sensor.stop()?;
    ensure!(ended.success(), "{:?}", ended.stderr);
    for part in ["lost the connection", "again"] {
        let lines = ended.stderr.iter().filter(|line| line.contains(part));
        ensure!(lines.count() == 2, "{:?}", ended.stderr);
    }

    // The sensor printed what was acknowledged. All of that has to be recorded.
    let acknowledged = seqs(&ended.stdout);
    let known = |lines: &[String]| -> HashSet<u64> {
        seqs(&before.stdout).into_iter().chain(seqs(lines)).collect()
    };
    if !recorder.wait_for(|lines| known(lines).len() >= acknowledged.len()) {
        let known = known(&recorder.stdout());
        let missing: Vec<_> = acknowledged.iter().filter(|seq| !known.contains(seq)).collect();
        let mut stored = stored(&server)?;
        stored.retain(|reading| missing.contains(&&reading.seq));
        bail!("not recorded: {missing:?}, of which the stream has {stored:?}");
    }
    assert_eq!(known(&recorder.stdout()), acknowledged.iter().copied().collect());
    // What was delivered twice is recorded once.
    let once = |lines: &[String]| {
        let seqs = seqs(lines);
        seqs.iter().collect::<HashSet<_>>().len() == seqs.len()
    };
    assert!(once(&before.stdout) && once(&recorder.stop()?.stdout));
    Ok(())
}

#[test]
fn qos_0_loses_what_was_on_its_way() -> Result<()> {
    let mut server = Server::start()?;
    ready(&server, RECORDER, "")?.stop()?;
    let link = Link::to(server.mqtt_port())?;
    let mut sensor = sensor_behind(&link, &server, "--interval 1ms --qos 0")?;
    sensor.expect("#100: ")?;
    // Readings leave the sensor from here on, and do not arrive. It prints them as sent.
    link.cut();
    let printed = last_seq(&sensor)? + 100;
    sensor.expect(&format!("#{printed}: "))?;
    let arrived = stored(&server)?.last().context("nothing is stored")?.seq;
    let lost = arrived + 1..=printed;
    assert!(!lost.is_empty(), "nothing was lost");
    server.kill()?;
    server.restart()?;
    link.reset();
    link.heal();
    sensor.expect_stderr("again")?;
    let after = last_seq(&sensor)? + 100;
    sensor.expect(&format!("#{after}: "))?;
    ensure!(sensor.stop()?.success(), "QoS 0 has nothing to fail for");

    let stored: Vec<u64> = stored(&server)?.iter().map(|reading| reading.seq).collect();
    writeln!(stderr(), "QoS 0: up to {after}, {} stored", stored.len())?;
    assert!(lost.clone().all(|seq| !stored.contains(&seq)), "{lost:?} of {stored:?}");
    // What is sent after the outage arrives, and nothing arrives twice.
    assert!(stored.contains(&(after - 1)));
    assert!(stored.is_sorted_by(|one, next| one < next), "{stored:?}");
    Ok(())
}

#[test]
fn a_broker_that_has_forgotten_the_session_gets_the_readings_again() -> Result<()> {
    let mut server = Server::start()?;
    let link = Link::to(server.mqtt_port())?;
    let mut sensor = sensor_behind(&link, &server, "--interval 1ms")?;
    sensor.expect("#50: ")?;
    // Readings leave the sensor from here on, and no acknowledgement comes back.
    link.cut();
    let acknowledged = last_seq(&sensor)?;
    let in_flight = acknowledged + 50;
    sensor.expect_stderr(&format!("took #{in_flight}"))?;
    server.kill()?;
    server.remove_store()?;
    server.restart()?;
    let mut recorder = ready(&server, RECORDER, "")?;
    link.reset();
    link.heal();
    recorder.expect(&format!("#{}: ", in_flight + 100))?;
    let ended = sensor.stop()?;
    ensure!(ended.success(), "{:?}", ended.stderr);
    // From the first that was not acknowledged on, all are there.
    let last = seqs(&ended.stdout).last().copied().context("no reading")?;
    assert!(recorder.wait_for(|lines| seqs(lines).last() == Some(&last)));
    let numbers = seqs(&recorder.stop()?.stdout);
    let first = *numbers.first().context("nothing recorded")?;
    assert!(first <= acknowledged + 1, "{first}");
    assert_eq!(numbers, (first..=last).collect::<Vec<_>>());
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

    let mut sensor = spawn(&server, SENSOR, "--interval 1h")?;
    // It is acknowledged, and the broker loses it with all that it has stored.
    sensor.expect("#1: ")?;
    server.kill()?;
    fs::remove_dir_all(&store)?;
    fs::rename(&empty, &store)?;
    // The sensor has acknowledged readings that it keeps, however long the outage is.
    sensor.expect_stderr("lost the connection")?;
    std::thread::sleep(Duration::from_secs(1));
    server.restart()?;
    let mut recorder = ready(&server, RECORDER, "--limit 1")?;
    assert_eq!(seqs(&recorder.wait()?.stdout), [1]);
    // The second acknowledgement prints no second line.
    sensor.expect_stderr("again")?;
    let ended = sensor.stop()?;
    ensure!(ended.success(), "{:?}", ended.stderr);
    assert_eq!(seqs(&ended.stdout), [1]);
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
    // A sensor that starts at this moment shows how fast the machine is.
    let start = Instant::now();
    let mut newcomer = ready(&server, SENSOR, "--id newcomer --interval 1h")?;
    let newcomer_took = start.elapsed();
    sensor.expect_stderr("again")?;
    let took = start.elapsed();
    assert!(took < newcomer_took + Duration::from_secs(1), "{took:?}, {newcomer_took:?}");
    assert!(newcomer.stop()?.success());

    assert!(sensor.wait_for(|lines| lines.len() > before));
    wait_for_retained(&server, "device/status/sensor-1", "online")?;
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
    let mut sensor = sensor_behind(&link, &server, "--interval 1h")?;
    assert_eq!(&*watcher.next()?.payload, b"online");
    sensor.expect("sends to device/temp")?;
    // The sensor does not come back before the broker has seen its connection break.
    sensor.signal(Signal::STOP)?;
    link.reset();
    assert_eq!(&*watcher.next()?.payload, b"offline");
    sensor.signal(Signal::CONT)?;
    assert_eq!(&*watcher.next()?.payload, b"online");
    assert!(sensor.stop()?.success());
    Ok(())
}

#[test]
fn a_sensor_that_cannot_say_goodbye_has_left_nothing_undone() -> Result<()> {
    let mut server = Server::start()?;
    let mut sensor = ready(&server, SENSOR, "--interval 1h")?;
    sensor.expect("#1: ")?;
    server.kill()?;
    sensor.expect_stderr("lost the connection")?;
    let start = Instant::now();
    let ended = sensor.stop()?;
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(ended.success(), "{:?}", ended.stderr);
    let last = ended.stderr.last().context("no warning")?;
    assert!(last.contains("ended without a goodbye"), "{last}");
    Ok(())
}

#[test]
fn a_sensor_that_is_stopped_with_unacknowledged_readings_says_so_and_fails() -> Result<()> {
    let mut server = Server::start()?;
    let link = Link::to(server.mqtt_port())?;
    let mut sensor = sensor_behind(&link, &server, "--interval 10ms")?;
    sensor.expect("#3: ")?;
    link.cut();
    sensor.expect_stderr(&format!("took #{}", last_seq(&sensor)? + 10))?;
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
    // Each disconnects the other, until one gives up. Which one is not said.
    eventually("the end of one", || {
        Ok((!first.is_running()? || !second.is_running()?).then_some(()))
    })?;
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

/// The one line of a program that failed at once.
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
    let jetstream = jetstream::new(async_nats::connect(server.url()).await?);
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
    // The stream is there again before the recorder says this.
    recorder.expect_stderr("the consumer recorder was gone")?;
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

/// Waits until nats-server says of the recorder's consumer what is expected.
fn recorder_until(server: &Server, is_expected: impl Fn(&Value) -> bool) -> Result<Value> {
    let consumer = |jsz: &Value| {
        let streams = jsz["account_details"][0]["stream_detail"].as_array();
        let readings = streams.into_iter().flatten().find(|stream| stream["name"] == "readings");
        readings.map(|stream| stream["consumer_detail"][0].clone()).unwrap_or_default()
    };
    let jsz = server.monitor_until("/jsz?consumers=1", |jsz| is_expected(&consumer(jsz)))?;
    Ok(consumer(&jsz))
}

#[test]
fn a_recorder_that_is_stopped_with_unconfirmed_acknowledgements_says_so_and_fails() -> Result<()> {
    let mut server = Server::start()?;
    let mut recorder = ready(&server, RECORDER, "")?;
    // The readings reach the recorder while it is suspended. Its request for a batch lasts a second:
    // if the readings come later, it takes them, and they are sent anew.
    for id in 1.. {
        let begun = Instant::now();
        recorder_until(&server, |it| it["num_waiting"] == 1)?;
        recorder.signal(Signal::STOP)?;
        let sent =
            spawn(&server, SENSOR, &format!("--id s{id} --count 3 --interval 0s"))?.wait()?;
        ensure!(sent.success(), "{:?}", sent.stderr);
        let pending = |it: &Value, which: &str| it[which].as_u64().unwrap_or_default();
        let stored = recorder_until(&server, |it| {
            pending(it, "num_ack_pending") + pending(it, "num_pending") == 3
        })?;
        // Neither may it give up that request, which it does after another second.
        if pending(&stored, "num_ack_pending") == 3 && begun.elapsed() < Duration::from_millis(800)
        {
            break;
        }
        recorder.signal(Signal::CONT)?;
        recorder.expect("#3: ")?;
        recorder_until(&server, |it| it["num_ack_pending"] == 0)?;
    }
    // Then the server dies.
    server.kill()?;
    recorder.signal(Signal::CONT)?;
    recorder.expect("#3: ")?;
    let start = Instant::now();
    let ended = recorder.stop()?;
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(ended.code(), Some(1));
    let last = ended.stderr.last().context("no error")?;
    // More than these three if it took some before: a later batch would have confirmed those.
    let count = last.split_once("did not confirm the last ").context(last.clone())?.1;
    let count: u64 = count.split(' ').next().unwrap_or_default().parse()?;
    assert!(count >= 3, "{last}");

    // It is true: they come again.
    server.restart()?;
    let again = spawn(&server, RECORDER, "--limit 3")?.wait()?;
    ensure!(again.success(), "{:?}", again.stderr);
    // In any order: nats-server redelivers what timed out at the same moment as it finds it.
    let mut again = seqs(&again.stdout);
    again.sort_unstable();
    assert_eq!(again, [1, 2, 3]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_or_consumer_with_other_settings_is_not_changed() -> Result<()> {
    let server = Server::start()?;
    let jetstream = jetstream::new(async_nats::connect(server.url()).await?);
    let subjects = vec!["device.>".to_owned()];
    let storage = stream::StorageType::Memory;
    let mut config =
        stream::Config { name: "readings".into(), subjects, storage, ..Default::default() };
    jetstream.create_stream(config.clone()).await?;
    let ended = spawn(&server, RECORDER, "")?.wait()?;
    let line = one_line(&ended)?;
    assert!(line.contains("its subjects are device.>, not device.temp"), "{line}");
    assert!(line.contains("its storage is Memory, not File"), "{line}");
    assert_eq!(jetstream.get_stream("readings").await?.cached_info().config.subjects, ["device.>"]);

    jetstream.delete_stream("readings").await?;
    // A limit is no reason not to use it.
    config.subjects = vec!["device.temp".into()];
    config.storage = stream::StorageType::File;
    config.max_messages = 1_000_000;
    let stream = jetstream.create_stream(config).await?;
    let consumer = pull::Config {
        durable_name: Some("recorder".into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: Duration::from_secs(60),
        ..Default::default()
    };
    stream.create_consumer(consumer).await?;
    let ended = spawn(&server, RECORDER, "")?.wait()?;
    let line = one_line(&ended)?;
    assert!(line.contains("the consumer recorder exists with other settings"), "{line}");
    assert!(line.contains("ack_wait is 60s, not 2s"), "{line}");
    let info = stream.consumer_info("recorder").await?;
    assert_eq!(info.config.ack_wait, Duration::from_secs(60));

    stream.delete_consumer("recorder").await?;
    assert!(ready(&server, RECORDER, "")?.stop()?.success());
    Ok(())
}

#[test]
fn a_server_without_jetstream_is_no_place_for_a_recorder() -> Result<()> {
    let server = Server::options().no_jetstream().start()?;
    let ended = spawn(&server, RECORDER, "")?.wait()?;
    let line = one_line(&ended)?;
    assert!(line.contains("JetStream is off"), "{line}");
    Ok(())
}
