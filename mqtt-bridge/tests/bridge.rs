//! The bridge in both directions, on a real server.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use rumqttc::{MqttOptions, Packet, QoS};
use testkit::{Certificates, Program, Server};
use tokio::time::timeout;

use crate::support::retained::{eventually, wait_for_retained};
use crate::support::{BACKEND, Mqtt, PATIENCE, RECORDER, SENSOR, reading, ready, seqs, spawn};

const DEVICE_ADMIN: &str = env!("CARGO_BIN_EXE_device-admin");

/// Publishes, and waits for the acknowledgement.
fn publish(mqtt: &mut Mqtt, topic: &str, payload: &str) -> Result<()> {
    mqtt.client.publish(topic, QoS::AtLeastOnce, false, payload)?;
    mqtt.until(|packet| matches!(packet, Packet::PubAck(_)).then_some(()))
}

#[test]
fn readings_reach_the_backend_and_the_recorder_with_either_qos() -> Result<()> {
    let server = Server::start()?;
    for qos in ["0", "1"] {
        let mut backend = ready(&server, BACKEND, "--limit 20")?;
        let mut recorder = ready(&server, RECORDER, "--limit 20")?;
        let args = format!("--count 20 --interval 1ms --qos {qos}");
        let ended = spawn(&server, SENSOR, &args)?.wait()?;
        assert!(ended.success());
        let last = ended.stdout.last().context("no summary")?;
        assert!(last.starts_with("20 readings in "), "{last}");
        for program in [&mut backend, &mut recorder] {
            let ended = program.wait()?;
            assert!(ended.success());
            assert_eq!(seqs(&ended.stdout), (1..=20).collect::<Vec<_>>());
            let last = ended.stdout.last().context("no summary")?;
            assert!(last.starts_with("20 readings in "), "{last}");
            assert_eq!(ended.stderr, [""; 0]);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_is_json_on_the_subject_device_temp() -> Result<()> {
    let server = Server::start()?;
    let client = async_nats::connect(server.url()).await?;
    let mut messages = client.subscribe("device.temp").await?;
    client.flush().await?;
    spawn(&server, SENSOR, "--id room_7-B --count 2 --interval 1ms")?.wait()?;
    for seq in 1..=2 {
        let message = messages.next().await.context("no message")?;
        let reading = mqtt_bridge::reading(&message.payload)?;
        assert_eq!((&*reading.sensor_id, reading.seq), ("room_7-B", seq));
        assert!(reading.timestamp_ms > 1_700_000_000_000);
    }
    Ok(())
}

#[test]
fn the_recorder_gets_what_was_sent_while_it_was_away() -> Result<()> {
    let server = Server::start()?;
    assert!(ready(&server, RECORDER, "")?.stop()?.success());
    let mut backend = ready(&server, BACKEND, "")?;
    assert!(backend.stop()?.success());
    assert!(spawn(&server, SENSOR, "--count 100 --interval 0s --quiet")?.wait()?.success());

    let recorder = spawn(&server, RECORDER, "--limit 100")?.wait()?;
    assert_eq!(seqs(&recorder.stdout), (1..=100).collect::<Vec<_>>());
    // A plain subscriber gets only what is sent from now on.
    let mut backend = ready(&server, BACKEND, "--limit 1")?;
    spawn(&server, SENSOR, "--id other --count 1 --quiet")?.wait()?;
    assert!(backend.wait()?.stdout[1].starts_with("other #1: "));
    Ok(())
}

#[test]
fn a_slash_becomes_a_dot_and_a_dot_two_slashes() -> Result<()> {
    let server = Server::start()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let client = runtime.block_on(async_nats::connect(server.url()))?;
    let mut all = runtime.block_on(client.subscribe(">"))?;
    runtime.block_on(client.flush())?;
    let mut mqtt = Mqtt::connect(&server, "topics")?;
    mqtt.subscribe("#")?;
    let mut heard = |prefix: &'static str| {
        runtime.block_on(async {
            loop {
                let next = timeout(PATIENCE, all.next());
                let message = next.await?.context("closed")?;
                // The server's own messages for MQTT sessions are not counted.
                if message.payload == prefix && !message.subject.starts_with('$') {
                    return anyhow::Ok(message.subject.to_string());
                }
            }
        })
    };

    // From MQTT to NATS …
    for (topic, subject, mark) in [
        ("device/temp", "device.temp", "1"),
        ("device.temp", "device//temp", "2"),
        ("/device/temp", "/.device.temp", "3"),
        ("device/temp/", "device.temp./", "4"),
        ("a//b", "a./.b", "5"),
        ("a*b/c>", "a*b.c>", "6"),
    ] {
        mqtt.client.publish(topic, QoS::AtMostOnce, false, mark)?;
        assert_eq!(mqtt.next()?.topic, topic);
        assert_eq!(heard(mark)?, subject, "{topic}");
    }
    // … and from NATS to MQTT.
    for (subject, topic) in [("device.temp", "device/temp"), ("a/b", "ab")] {
        runtime.block_on(client.publish(subject, "x".into()))?;
        assert_eq!(mqtt.next()?.topic, topic, "{subject}");
    }
    // No subject contains a space: the server closes the connection.
    mqtt.client.publish("device temp", QoS::AtMostOnce, false, "7")?;
    let error = mqtt.next().err().context("the server took a space")?;
    assert_eq!(error.to_string(), "the broker ended the connection");
    Ok(())
}

#[test]
fn presence_is_online_while_the_sensor_runs_and_offline_after_it() -> Result<()> {
    let server = Server::start()?;
    let mut sensor = ready(&server, SENSOR, "--interval 1h")?;
    // A client that subscribes later gets it, too.
    wait_for_retained(&server, "device/status/sensor-1", "online")?;
    let mut watcher = Mqtt::connect(&server, "watcher")?;
    watcher.subscribe("device/status/sensor-1")?;
    assert_eq!(&*watcher.next()?.payload, b"online");

    assert!(sensor.stop()?.success());
    assert_eq!(&*watcher.next()?.payload, b"offline");
    wait_for_retained(&server, "device/status/sensor-1", "offline")
}

#[test]
fn the_last_will_of_a_killed_sensor_says_offline() -> Result<()> {
    let server = Server::start()?;
    let mut watcher = Mqtt::connect(&server, "watcher")?;
    watcher.subscribe("device/status/+")?;
    let mut sensor = ready(&server, SENSOR, "")?;
    assert_eq!(&*watcher.next()?.payload, b"online");
    sensor.kill()?;
    let will = watcher.next()?;
    assert_eq!((&*will.payload, &*will.topic), (&b"offline"[..], "device/status/sensor-1"));
    Ok(())
}

#[test]
fn a_command_changes_the_interval_at_once() -> Result<()> {
    let server = Server::start()?;
    let mut sensor = ready(&server, SENSOR, "--interval 1h")?;
    sensor.expect("#1: ")?;
    let admin = spawn(&server, DEVICE_ADMIN, "interval sensor-1 20ms")?.wait()?;
    assert!(admin.success());
    assert_eq!(admin.stdout, ["sent to device.cmd.sensor-1: a reading every 20ms"]);
    sensor.expect("interval set to 20ms")?;
    sensor.expect("#6: ")?;
    assert!(sensor.stop()?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_none_is_reported_and_ignored() -> Result<()> {
    let server = Server::start()?;
    let mut sensor = ready(&server, SENSOR, "--interval 1h")?;
    let client = async_nats::connect(server.url()).await?;
    // The last one is larger than the client library accepts by default.
    let large = "x".repeat(100_000);
    for command in ["off", r#"{"interval_ms":0}"#, r#"{"interval_ms":-5}"#, &large] {
        client.publish("device.cmd.sensor-1", command.to_owned().into()).await?;
        sensor.expect_stderr("not a command, ignored")?;
    }
    client.publish("device.cmd.sensor-1", r#"{"interval_ms": 10}"#.into()).await?;
    sensor.expect("interval set to 10ms")?;
    let ended = sensor.stop()?;
    assert!(ended.success());
    assert_eq!(ended.stderr.len(), 4, "{:?}", ended.stderr);
    Ok(())
}

#[test]
fn a_command_from_nats_comes_with_qos_0_and_not_to_a_sensor_that_is_offline() -> Result<()> {
    let server = Server::start()?;
    let mut mqtt = Mqtt::connect(&server, "watcher")?;
    mqtt.subscribe("device/cmd/sensor-1")?;
    let mut sensor = ready(&server, SENSOR, "")?;
    assert!(sensor.stop()?.success());

    // Two commands for the session that waits: from NATS, and by MQTT with QoS 1.
    assert!(spawn(&server, DEVICE_ADMIN, "interval sensor-1 1m")?.wait()?.success());
    let command = mqtt.next()?;
    assert_eq!(command.qos, QoS::AtMostOnce);
    publish(&mut mqtt, "device/cmd/sensor-1", r#"{"interval_ms":120000}"#)?;

    let mut sensor = spawn(&server, SENSOR, "--interval 1h")?;
    sensor.expect("interval set to 2m")?;
    let lines = sensor.stop()?.stdout;
    assert_eq!(lines.iter().filter(|line| line.contains("interval set")).count(), 1, "{lines:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_reading_is_reported_and_stops_nobody() -> Result<()> {
    let server = Server::start()?;
    let mut backend = ready(&server, BACKEND, "--limit 1")?;
    let mut recorder = ready(&server, RECORDER, "--limit 1")?;
    let client = async_nats::connect(server.url()).await?;
    for payload in ["", "21.5", &reading("../../etc", 1, 1), &reading("sensor-1", 1, 1)] {
        client.publish("device.temp", payload.to_owned().into()).await?;
    }
    for program in [&mut backend, &mut recorder] {
        let ended = program.wait()?;
        assert!(ended.success());
        assert_eq!(seqs(&ended.stdout), [1]);
        assert_eq!(ended.stderr.len(), 3, "{:?}", ended.stderr);
    }
    // Terminated: the recorder does not get them again, nor does it wait for them.
    let consumers = "/jsz?consumers=1";
    server.monitor_until(consumers, |jsz| {
        let streams = jsz["account_details"][0]["stream_detail"].as_array();
        let readings = streams.into_iter().flatten().find(|stream| stream["name"] == "readings");
        readings.is_some_and(|stream| {
            let consumer = &stream["consumer_detail"][0];
            consumer["num_ack_pending"] == 0 && consumer["num_pending"] == 0
        })
    })?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_comes_twice_is_recorded_once() -> Result<()> {
    let server = Server::start()?;
    let mut recorder = ready(&server, RECORDER, "")?;
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await?);
    let publish = async |id: &str, seq: u64, timestamp_ms: u64| {
        let payload = reading(id, seq, timestamp_ms).into();
        jetstream.publish("device.temp", payload).await?.await?;
        anyhow::Ok(())
    };
    for seq in [1, 2, 2, 1, 3] {
        publish("sensor-1", seq, 1_000 + seq).await?;
    }
    // Another sensor, and the same one started again: it counts from 1 again.
    publish("sensor-2", 1, 1_001).await?;
    publish("sensor-1", 1, 9_001).await?;
    recorder.expect("sensor-2 #1")?;
    recorder.expect("sensor-1 #1")?;
    let ended = recorder.stop()?;
    assert_eq!(seqs(&ended.stdout), [1, 2, 3, 1, 1]);

    // A recorder that was started again knows what was recorded before.
    let mut recorder = ready(&server, RECORDER, "")?;
    publish("sensor-1", 3, 1_003).await?;
    publish("sensor-1", 2, 9_002).await?;
    recorder.expect("sensor-1 #2")?;
    assert_eq!(seqs(&recorder.stop()?.stdout), [2]);
    Ok(())
}

#[test]
fn zero_is_an_interval_and_anything_may_stop_it() -> Result<()> {
    let server = Server::start()?;
    for qos in ["0", "1"] {
        let mut sensor = ready(&server, SENSOR, &format!("--interval 0s --qos {qos}"))?;
        sensor.expect("#1000: ")?;
        let ended = sensor.stop()?;
        assert!(ended.success(), "{:?}", ended.stderr);
    }
    Ok(())
}

#[test]
fn a_bad_command_line_is_refused() -> Result<()> {
    let server = Server::start()?;
    for (program, args) in [
        (SENSOR, "--id a/b"),
        (SENSOR, "--id a.b"),
        (SENSOR, "--id *"),
        (SENSOR, "--qos 2"),
        (SENSOR, "--interval soon"),
        (DEVICE_ADMIN, "interval a.b 1s"),
        (DEVICE_ADMIN, "interval sensor-1 0s"),
        (DEVICE_ADMIN, "interval sensor-1 8d"),
        (DEVICE_ADMIN, "interval"),
    ] {
        assert_eq!(spawn(&server, program, args)?.wait()?.code(), Some(2), "{args}");
    }
    let mut command = server.command(SENSOR);
    command.args(["--id", ""]);
    assert_eq!(Program::spawn(&mut command)?.wait()?.code(), Some(2));
    Ok(())
}

#[test]
fn no_secret_is_shown() -> Result<()> {
    let server = Server::start()?;
    let mut command = server.command(SENSOR);
    command
        .env("MQTT_URL", "mqtt://me:hidden@127.0.0.1:1")
        .env("MQTT_PASSWORD", "hidden")
        .env("RUST_LOG", "trace");
    let refused = Program::spawn(&mut command)?.wait()?;
    assert_eq!(refused.code(), Some(1));
    let help = Program::spawn(command.arg("--help"))?.wait()?;
    assert!(help.success());
    for line in [refused.stdout, refused.stderr, help.stdout, help.stderr].iter().flatten() {
        assert!(!line.contains("hidden"), "{line}");
    }
    Ok(())
}

/// As README.md shows it, under "Security of devices".
const DEVICES: &str = include_str!("devices.conf");

fn as_sensor(server: &Server, user: &str, args: &str) -> Result<Program> {
    let mut command = server.command(SENSOR);
    command.env("MQTT_USER", user).env("MQTT_PASSWORD", "a-secret");
    Program::spawn(command.args(args.split_whitespace()))
}

#[test]
fn a_device_may_speak_mqtt_only_and_on_its_own_topics_only() -> Result<()> {
    let readme = include_str!("../README.md");
    ensure!(readme.contains(DEVICES), "the README shows another configuration");
    let server = Server::options().config(DEVICES).start()?;
    let url = server.url().replace("nats://", "nats://backend:b-secret@");
    let mut backend = Program::spawn(server.command(BACKEND).env("NATS_URL", &url))?;
    backend.expect("waiting")?;

    // The sensor does what it is made for, and its commands reach it …
    let mut sensor = as_sensor(&server, "sensor-1", "--interval 10ms")?;
    backend.expect("sensor-1 #1")?;
    let mut admin = server.command(DEVICE_ADMIN);
    admin.env("NATS_URL", &url).args(["interval", "sensor-1", "20ms"]);
    assert!(Program::spawn(&mut admin)?.wait()?.success());
    sensor.expect("interval set to 20ms")?;
    assert!(sensor.stop()?.success());

    // … under its own name only: another name's commands are denied.
    let ended = as_sensor(&server, "sensor-1", "--id sensor-2")?.wait()?;
    assert_eq!(ended.code(), Some(1));
    let last = ended.stderr.last().context("no error")?;
    assert!(last.contains("denied the subscription to device/cmd/sensor-2"), "{last}");

    // It does not get in as a NATS client.
    let mut command = server.command(BACKEND);
    command.env("NATS_USER", "sensor-1").env("NATS_PASSWORD", "a-secret");
    let ended = Program::spawn(&mut command)?.wait()?;
    assert_eq!(ended.code(), Some(1));
    Ok(())
}

/// A sensor that trusts the authority.
fn with_tls(server: &Server, certificates: &Certificates) -> Command {
    let mut command = server.command(SENSOR);
    command.args(["--interval", "10ms"]).env("MQTT_CA", certificates.authority());
    command
}

#[test]
fn a_sensor_speaks_tls() -> Result<()> {
    let certificates = Certificates::new()?;
    // The server demands a certificate of each device, and looks for the user of one of its names.
    let tls = certificates.server_config(true).replace("verify: true", "verify_and_map: true");
    let users = "authorization { users: [{ user: localhost }, { user: nats, password: n }] }";
    let mut server = Server::options().mqtt_tls(&tls).config(users).start()?;
    let device = || {
        let mut command = with_tls(&server, &certificates);
        command.env("MQTT_CERT", certificates.client());
        command.env("MQTT_KEY", certificates.client_key());
        command
    };
    let ended = Program::spawn(device().args(["--count", "3"]))?.wait()?;
    assert!(ended.success() && ended.stdout.len() == 5, "{ended:?}");

    let ended = Program::spawn(&mut with_tls(&server, &certificates))?.wait()?;
    let [line] = &ended.stderr[..] else { bail!("{ended:?}") };
    ensure!(ended.code() == Some(1) && line.contains("--tlscert"), "{line}");
    let mut plain = device();
    plain.env("MQTT_URL", server.mqtt_url().replace("mqtts", "mqtt"));
    let ended = Program::spawn(&mut plain)?.wait()?;
    let [line] = &ended.stderr[..] else { bail!("{ended:?}") };
    ensure!(ended.code() == Some(1) && line.contains("nothing is encrypted"), "{line}");
    let mut unreadable = device();
    let ended = Program::spawn(unreadable.args(["--tlsca", "/no/such.pem"]))?.wait()?;
    let [line] = &ended.stderr[..] else { bail!("{ended:?}") };
    ensure!(line.contains("cannot read --tlsca /no/such.pem"), "{line}");

    // Its user is gone while it is connected.
    let mut sensor = Program::spawn(&mut device())?;
    sensor.expect("#1")?;
    server.reconfigure("user: localhost", "user: other")?;
    sensor.expect_stderr("lost the connection")?;
    sensor.expect_stderr("user or password not accepted")?;
    server.reconfigure("user: other", "user: localhost")?;
    sensor.expect_stderr("connected to mqtts://")?;
    assert_eq!(sensor.stop()?.stderr.len(), 3);
    Ok(())
}

#[test]
fn a_brokers_certificate_that_is_not_valid_is_one_clear_line() -> Result<()> {
    let certificates = Certificates::new()?;
    let server = Server::options().mqtt_tls(&certificates.server_config(false)).start()?;
    let expired = Certificates::expired()?;
    let old = Server::options().mqtt_tls(&expired.server_config(false)).start()?;
    let another = Certificates::for_another_name()?;
    let elsewhere = Server::options().mqtt_tls(&another.server_config(false)).start()?;
    let plain = Server::start()?;
    let mut tls_to_plain = with_tls(&plain, &certificates);
    tls_to_plain.env("MQTT_URL", plain.mqtt_url().replace("mqtt:", "mqtts:"));
    for (mut command, says) in [
        (with_tls(&server, &another), "unknown authority"),
        (with_tls(&old, &expired), "expired"),
        (with_tls(&elsewhere, &another), "another name"),
        (tls_to_plain, "scheme and port"),
    ] {
        let ended = Program::spawn(&mut command)?.wait()?;
        let [line] = &ended.stderr[..] else { bail!("{ended:?}") };
        ensure!(ended.code() == Some(1) && line.contains(says), "{says}: {line}");
    }
    Ok(())
}

#[test]
fn a_denied_publish_is_acknowledged_and_dropped() -> Result<()> {
    let server = Server::options().config(DEVICES).start()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let login =
        async_nats::ConnectOptions::with_user_and_password("backend".into(), "b-secret".into());
    let client = runtime.block_on(login.connect(server.url()))?;
    let mut elsewhere = runtime.block_on(client.subscribe("device.>"))?;
    runtime.block_on(client.flush())?;

    let mut options = MqttOptions::new("sensor-1", "127.0.0.1", server.mqtt_port());
    options.set_credentials("sensor-1", "a-secret");
    let mut mqtt = Mqtt::with(options)?;
    publish(&mut mqtt, "device/cmd/sensor-2", "denied")?; // returns: the PUBACK came
    publish(&mut mqtt, "device/status/sensor-1", "allowed")?;
    let first = runtime.block_on(elsewhere.next()).context("closed")?;
    assert_eq!(&*first.payload, b"allowed");
    // Only the server's log says so.
    eventually("the violation in the log", || {
        let log = server.log();
        Ok(log.iter().any(|line| line.contains("Publish Violation")).then_some(()))
    })?;
    Ok(())
}
