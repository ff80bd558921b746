//! What the hub has if the line or the leaf node fails under a running sensor.

use std::io::{Write, stderr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use edged::streams::READINGS;
use edged::{Config, Edge};
use testkit::Topology;

use crate::support::{
    PATIENCE, complete_and_in_order, copied, count, eventually, ready, site, stop_sensor,
};

/// Time that the hub has to catch up after a long cut.
const CATCH_UP: Duration = Duration::from_secs(240);

/// Stops the sensor, and checks what the hub has of it. Returns how many readings came again.
async fn check(edge: &Edge, sensors: Vec<(&str, testkit::Program)>) -> Result<usize> {
    let mut sent = Vec::new();
    for (id, sensor) in sensors {
        sent.push((id, stop_sensor(sensor)?));
    }
    let stored = copied(edge, CATCH_UP).await?;
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
