//! What the hub has if the line or the leaf node fails under a running sensor.

use std::io::{Write, stderr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::stream::Config as Stream;
use edged::streams::{READINGS, jetstream, plain_source};
use edged::{Config, Edge};
use tokio::time::sleep;

use crate::support::{
    PATIENCE, complete_and_in_order, count, eventually, ready, site, stop_sensor, stored,
    wait_until_copied,
};

/// Streams of the hub with a plain source. One of them might begin again just when the line is back.
const PLAIN: [&str; 2] = ["plain-1", "plain-2"];
/// A plain source is late after a cut of 20 s or more, and not after 19 s.
const CUT: Duration = Duration::from_secs(23);
/// The durable source was 5 to 8 s late, a plain one 37 to 40 s.
const SOON: Duration = Duration::from_secs(30);

/// Stops the sensor, and checks what the hub has of it. Returns how many readings came again.
async fn check(edge: &Edge, sensors: Vec<(&str, testkit::Program)>) -> Result<usize> {
    let mut sent = Vec::new();
    for (id, sensor) in sensors {
        sent.push((id, stop_sensor(sensor)?));
    }
    wait_until_copied(edge, READINGS, PATIENCE).await?;
    let stored = stored(edge.hub(), READINGS).await?;
    let mut again = 0;
    for (id, last) in sent {
        again += complete_and_in_order(stored.get(id).context("nothing")?, last)?;
    }
    Ok(again)
}

#[tokio::test]
async fn a_silent_line_is_noticed_and_the_hub_gets_all_readings_in_order() -> Result<()> {
    let edge = site(&Config::default()).await?;
    let mut sensors = Vec::new();
    for id in ["a", "b"] {
        let args = format!("--id {id} --interval 2ms");
        sensors.push((id, ready(edge.leaf(), "sensor", &args, "#100:")?));
    }
    let cut = Instant::now();
    edge.line().cut();
    edge.wait_until_noticed()?;
    let noticed = cut.elapsed();
    // Questions go out every 5 s; after two without an answer and 5 s more the connection is closed.
    ensure!(noticed < Duration::from_secs(40), "noticed after {noticed:?}");
    let at_hub = count(edge.hub(), READINGS).await?;
    edge.line().heal();
    let healed = Instant::now();
    eventually(
        PATIENCE,
        "readings go on",
        async || Ok(count(edge.hub(), READINGS).await? > at_hub),
    )
    .await?;
    let again = check(&edge, sensors).await?;
    ensure!(again == 0, "{again} readings are there twice");
    let late = healed.elapsed();
    writeln!(stderr(), "a silent line: noticed after {noticed:.1?}, complete {late:.1?} later")?;
    Ok(())
}

/// The plain source waits: half a minute later it is not complete.
#[tokio::test]
async fn after_a_long_cut_the_durable_source_is_complete_before_the_plain_one() -> Result<()> {
    // The plain source makes its consumers at the leaf node, which takes more rights.
    let config = Config { permissions: String::new(), ..Config::default() };
    let edge = site(&config).await?;
    let hub = jetstream(&edge.hub().url()).await?;
    for name in PLAIN {
        let sources = Some(vec![plain_source()]);
        hub.create_stream(Stream { name: name.into(), sources, ..Stream::default() }).await?;
    }
    let sensor = ready(edge.leaf(), "sensor", "--interval 10ms", "#20:")?;
    for name in PLAIN {
        wait_until_copied(&edge, name, PATIENCE).await?;
    }
    edge.line().cut();
    // The length of the outage is what matters here.
    sleep(CUT).await;
    edge.line().heal();
    let healed = Instant::now();
    stop_sensor(sensor)?;
    wait_until_copied(&edge, READINGS, PATIENCE).await?;
    let durable = healed.elapsed();
    ensure!(durable < SOON, "the durable source is {durable:?} late");
    let (of, mut late) = (count(edge.hub(), READINGS).await?, Vec::new());
    for name in PLAIN {
        late.push(count(edge.hub(), name).await?);
    }
    writeln!(
        stderr(),
        "after a cut of {CUT:?}: durable {durable:.1?} late, plain have {late:?} of {of}"
    )?;
    ensure!(late.iter().any(|late| *late < of), "the plain sources have all {of} already");
    Ok(())
}

#[tokio::test]
async fn the_leaf_node_is_killed_twice_and_the_hub_gets_all_readings() -> Result<()> {
    let mut edge = site(&Config::default()).await?;
    let mut sensor = ready(edge.leaf(), "sensor", "--interval 2ms", "#200:")?;
    for next in ["#600:", "#1000:"] {
        edge.servers_mut()[1].kill()?;
        edge.servers_mut()[1].restart()?;
        sensor.expect(next)?;
    }
    let again = check(&edge, vec![("sensor-1", sensor)]).await?;
    writeln!(stderr(), "leaf node killed twice: {again} readings are there twice")?;
    Ok(())
}

/// The consumer at the leaf node keeps its position, and the hub its stream.
#[tokio::test]
async fn the_hub_is_killed_and_gets_all_readings() -> Result<()> {
    let mut edge = site(&Config::default()).await?;
    let mut sensor = ready(edge.leaf(), "sensor", "--interval 2ms", "#200:")?;
    edge.servers_mut()[0].kill()?;
    sensor.expect("#400:")?;
    edge.servers_mut()[0].restart()?;
    edge.wait_until_connected()?;
    let again = check(&edge, vec![("sensor-1", sensor)]).await?;
    ensure!(again == 0, "{again} readings are there twice");
    Ok(())
}
