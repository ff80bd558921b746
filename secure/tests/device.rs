//! A device that loses a right, and what shows it.

use anyhow::{Context, Result, ensure};
use secured::Stage;
use secured::access::users;

use crate::support::{Playground, stop};

/// The entries of the sensor's list in the configuration, with and without its readings.
const ALL: &str = "\"device.status.sensor-1\"\n            \"device.temp\"";
const LESS: &str = "\"device.status.sensor-1\"";

/// The number of the last reading.
fn last(lines: &[String]) -> Result<u64> {
    let line = lines.iter().rfind(|line| line.contains('#')).context("no reading")?;
    let number = line.split('#').nth(1).and_then(|rest| rest.split(':').next());
    Ok(number.context("no number")?.parse()?)
}

#[test]
fn a_sensor_that_may_not_publish_any_more_is_told_that_all_is_well() -> Result<()> {
    let mut playground = Playground::start(Stage::Accounts)?;
    let mut recorder = playground.start_program("recorder", "", "recording")?;
    let sensor = playground.start_program("sensor", "--interval 50ms", "#1")?;
    recorder.expect("#1")?;
    playground.server.reconfigure(ALL, LESS)?;
    // nats-server's log is the first to know.
    ensure!(playground.has_denied("device.temp"), "nothing was denied");
    let sent = last(&sensor.stdout())?;
    // The sensor prints a reading when it is acknowledged.
    let goes_on = |lines: &[String]| last(lines).is_ok_and(|number| number > sent + 20);
    ensure!(sensor.wait_for(goes_on), "{:?}", sensor.stderr());
    let ended = stop(sensor)?;
    ensure!(ended.stderr.is_empty(), "{ended:?}");
    let sent = last(&ended.stdout)?;
    // Some had come before.
    let received = last(&stop(recorder)?.stdout)?;
    ensure!(received + 20 <= sent, "recorded #{received} of #{sent}");
    let denied = playground.server.log().into_iter().find(|it| it.contains("Publish Violation"));
    let denied = denied.context("no violation")?;
    // Whose it is.
    ensure!(denied.contains("sensor-1"), "{denied}");
    Ok(())
}

/// A device that starts without the right.
#[test]
fn a_sensor_that_starts_without_the_right_ends_with_success_and_its_status_says_online()
-> Result<()> {
    let mut playground = Playground::start(Stage::Accounts)?;
    let (_, user) = users().find(|(_, user)| user.name == "sensor-1").context("no sensor")?;
    ensure!(user.publish.contains(&"device.temp"));
    playground.server.reconfigure(ALL, LESS)?;
    let mut backend = playground.start_program("backend", "", "waiting")?;
    let ended = playground.run("sensor", "--count 3 --interval 10ms")?;
    ensure!(ended.stdout.iter().any(|line| line.contains("#3")), "{ended:?}");
    ensure!(playground.has_denied("device.temp"), "nothing was denied");
    playground.server.reconfigure(LESS, ALL)?;
    playground.run("sensor", "--count 1 --interval 10ms")?;
    backend.expect("#1")?;
    let ended = stop(backend)?;
    ensure!(ended.stdout.len() == 2, "{ended:?}");
    Ok(())
}
