//! The first versions, and what they lose: README.md states these figures.

use std::collections::HashSet;
use std::io::{Write, stderr};

use anyhow::{Context, Result};
use testkit::{Program, Server, example};

use crate::support::stored::stored;
use crate::support::{self, BACKEND, Mqtt, PATIENCE, RECORDER, SENSOR, ready, seqs, spawn};

/// `first-sensor` sends so many readings.
const COUNT: u64 = 10;

/// Starts a first version. It takes its time: a reading each second.
fn first(server: &Server, name: &str) -> Result<Program> {
    let program = Program::spawn(&mut server.command(example(name)))?;
    Ok(program.timeout(PATIENCE))
}

/// Starts `first-backend`, and waits until it has subscribed. `others` have before it: a stream
/// subscribes to its subjects, too.
fn first_backend(server: &Server, others: usize) -> Result<Program> {
    let mut backend = first(server, "first-backend")?;
    backend.expect("waiting for readings on device.temp")?;
    server.wait_for_subscriptions("device.temp", others + 1)?;
    Ok(backend)
}

/// The numbers of one sensor's readings that the stream `readings` holds, in its order.
fn stored_of(server: &Server, sensor_id: &str) -> Result<Vec<u64>> {
    let readings = stored(server)?.into_iter();
    let of_sensor = readings.filter(|reading| reading.sensor_id == sensor_id);
    Ok(of_sensor.map(|reading| reading.seq).collect())
}

#[test]
fn first_versions_and_services_understand_each_other() -> Result<()> {
    let server = Server::start()?;
    let first_backend = first_backend(&server, 0)?;
    let mut backend = ready(&server, BACKEND, "--limit 20")?;
    let mut recorder = ready(&server, RECORDER, "--limit 20")?;
    let mut first_sensor = first(&server, "first-sensor")?;
    let sensor = spawn(&server, SENSOR, "--id sensor-2 --count 10 --interval 1ms")?.wait()?;
    assert!(sensor.success(), "{:?}", sensor.stderr);
    let sent = first_sensor.wait()?;
    assert!(sent.success(), "{:?}", sent.stderr);
    assert_eq!(seqs(&sent.stdout), (1..=COUNT).collect::<Vec<_>>());

    // A receiver shows a reading as its sensor does, whichever pair it is.
    let readings = sensor.stdout.iter().filter(|line| line.contains('#'));
    let sent: HashSet<_> = sent.stdout.iter().chain(readings).cloned().collect();
    assert_eq!(sent.len(), 20);
    let received = |lines: &[String]| -> HashSet<_> {
        let readings = lines.iter().filter(|line| line.contains('#'));
        readings.cloned().collect()
    };
    for service in [&mut backend, &mut recorder] {
        let ended = service.wait()?;
        assert!(ended.success(), "{:?}", ended.stderr);
        assert_eq!(received(&ended.stdout), sent);
    }
    assert!(first_backend.wait_for(|lines| received(lines) == sent));
    Ok(())
}

#[test]
fn the_first_sensor_reports_ten_readings_that_its_broker_never_got() -> Result<()> {
    let mut server = Server::start()?;
    assert!(ready(&server, RECORDER, "")?.stop()?.success());
    let mut first_sensor = first(&server, "first-sensor")?;
    let service = "--id sensor-2 --count 10 --interval 100ms";
    let mut sensor = spawn(&server, SENSOR, service)?;
    sensor.expect("#3: ")?;
    first_sensor.expect("#3: ")?;
    server.kill()?;
    // The line says that a reading is in the queue: the next one may have arrived, too.
    let sent = seqs(&first_sensor.stdout()).last().copied().unwrap_or(0) + 1;

    // It prints what it has put into its queue, and is content with that.
    let ended = first_sensor.wait()?;
    assert!(ended.success(), "{:?}", ended.stderr);
    assert_eq!(seqs(&ended.stdout), (1..=COUNT).collect::<Vec<_>>());

    server.restart()?;
    let first_sensor = stored_of(&server, "sensor-1")?;
    writeln!(stderr(), "stored of {COUNT} that were sent: {first_sensor:?}")?;
    assert!(first_sensor.iter().all(|seq| *seq <= sent.min(COUNT - 1)), "{first_sensor:?}");
    // The service waits for its broker. A repetition is allowed: it is at least once.
    assert!(sensor.wait()?.success());
    let service: HashSet<_> = stored_of(&server, "sensor-2")?.into_iter().collect();
    assert_eq!(service, (1..=COUNT).collect());
    Ok(())
}

#[test]
fn the_first_sensor_drops_what_is_unacknowledged_when_its_broker_restarts() -> Result<()> {
    let mut server = Server::start()?;
    assert!(ready(&server, RECORDER, "")?.stop()?.success());
    let mut first_sensor = first(&server, "first-sensor")?;
    let mut sensor = spawn(&server, SENSOR, "--id sensor-2 --count 10 --interval 1s")?;
    sensor.expect("#2: ")?;
    first_sensor.expect("#2: ")?;
    // A broker that still accepts bytes and handles none of them, and then dies: `pkill -STOP`.
    server.suspend()?;
    // The next reading may have been handled already. Those after it are not.
    let handled = seqs(&first_sensor.stdout()).last().copied().unwrap_or(0) + 1;
    let lost = handled + 1..=handled + 3;
    // The line says that the reading is in the queue. The one after it says that it has left it.
    first_sensor.expect(&format!("#{}: ", lost.end() + 1))?;
    server.kill()?;
    server.restart()?;

    let ended = first_sensor.wait()?;
    assert!(ended.success(), "{:?}", ended.stderr);
    assert_eq!(seqs(&ended.stdout), (1..=COUNT).collect::<Vec<_>>());
    assert!(sensor.wait()?.success());
    let service: HashSet<_> = stored_of(&server, "sensor-2")?.into_iter().collect();
    assert_eq!(service, (1..=COUNT).collect());
    let first_sensor = stored_of(&server, "sensor-1")?;
    writeln!(stderr(), "stored of {COUNT} that were sent: {first_sensor:?}")?;
    for seq in lost {
        assert!(!first_sensor.contains(&seq), "{seq} of {first_sensor:?}");
    }
    Ok(())
}

#[test]
fn no_last_will_tells_that_the_first_sensor_is_gone() -> Result<()> {
    let server = Server::start()?;
    let mut watcher = Mqtt::connect(&server, "watcher")?;
    watcher.subscribe("device/status/+")?;
    let mut first_sensor = first(&server, "first-sensor")?;
    first_sensor.expect("#1: ")?;
    first_sensor.kill()?;

    // The service is killed after it: what the broker has to say of the first one comes before.
    let mut sensor = ready(&server, SENSOR, "--id sensor-2")?;
    sensor.kill()?;
    for expected in ["online", "offline"] {
        let status = watcher.next()?;
        assert_eq!(status.topic, "device/status/sensor-2");
        assert_eq!(status.payload, expected);
    }
    Ok(())
}

#[test]
fn the_first_backend_misses_what_is_sent_while_it_is_away() -> Result<()> {
    let server = Server::start()?;
    let mut recorder = ready(&server, RECORDER, "")?;
    recorder.kill()?;
    let mut backend = first_backend(&server, 1)?;
    backend.kill()?;
    server.wait_for_subscriptions("device.temp", 1)?;
    let sent = spawn(&server, SENSOR, "--count 100 --interval 0s --quiet")?.wait()?;
    assert!(sent.success(), "{:?}", sent.stderr);

    let mut backend = first_backend(&server, 1)?;
    let sent = spawn(&server, SENSOR, "--id sensor-2 --count 1 --quiet")?.wait()?;
    assert!(sent.success(), "{:?}", sent.stderr);
    backend.expect("sensor-2 #1: ")?;
    let received = seqs(&backend.stdout());
    writeln!(stderr(), "first-backend got {} of 100", received.len() - 1)?;
    assert_eq!(received, [1]);
    let recorder = spawn(&server, RECORDER, "--limit 101")?.wait()?;
    assert!(recorder.success(), "{:?}", recorder.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_backend_ends_at_a_payload_that_is_not_json() -> Result<()> {
    let server = Server::start()?;
    let mut first_backend = first_backend(&server, 0)?;
    let mut backend = ready(&server, BACKEND, "--limit 1")?;
    let client = async_nats::connect(server.url()).await?;
    client.publish("device.temp", "21.5 °C".into()).await?;
    let ended = first_backend.wait()?;
    assert_eq!(ended.code(), Some(1));
    let reading = support::reading("sensor-2", 1, 1);
    client.publish("device.temp", reading.into()).await?;
    let ended = backend.wait().context("the service goes on")?;
    assert!(ended.success());
    assert_eq!(seqs(&ended.stdout), [1]);
    Ok(())
}
