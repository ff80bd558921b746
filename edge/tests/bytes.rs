//! What crosses the line.

use std::io::{Write, stderr};

use anyhow::{Context as _, Result, bail, ensure};
use edged::streams::{READINGS, SUBJECT, client, lay};
use edged::{Config, Edge};
use futures::StreamExt;
use tokio::time::timeout;

use crate::support::{PATIENCE, count, eventually, site, succeeds, wait_until_copied, wanted};

const SENT: u64 = 1000;
const SENSOR: &str = "--interval 0s --quiet --count 1000";

/// Sends readings, and returns how many bytes have crossed the line for each of them.
async fn per_reading(edge: &Edge, all: impl AsyncFnOnce() -> Result<()>) -> Result<u64> {
    let before = edge.line().carried();
    succeeds(edge.leaf(), "sensor", SENSOR)?;
    all().await?;
    Ok((edge.line().carried() - before) / SENT)
}

/// By default, a leaf node compresses if an answer takes more than 10 ms, as on a busy machine.
const PLAIN: &str = "compression: off\n";

/// Nothing is forbidden.
fn open() -> Config {
    Config { permissions: String::new(), remote: PLAIN.into() }
}

/// As in the lesson.
fn closed() -> Config {
    let Config { permissions, remote } = Config::default();
    Config { permissions, remote: PLAIN.to_owned() + &remote }
}

#[tokio::test]
async fn a_reading_crosses_the_line_once_for_each_way_in_which_the_hub_asks_for_it() -> Result<()> {
    // No program listens at the hub: not a byte.
    let edge = Edge::start(&open(), |_, options| options)?;
    let unheard = per_reading(&edge, async || Ok(())).await?;
    // A subscriber.
    let hub = client(&edge.hub().url()).await?;
    let mut readings = hub.subscribe(SUBJECT).await?;
    hub.flush().await?;
    wanted(edge.leaf(), SUBJECT, PATIENCE).await?;
    let subscriber = per_reading(&edge, async || {
        for _ in 0..SENT {
            timeout(PATIENCE, readings.next()).await?.context("no reading")?;
        }
        Ok(())
    });
    let subscriber = subscriber.await?;
    drop(edge);
    // A source, and then a source and the subject.
    let mut stored = Vec::new();
    for (config, times) in [(closed(), 1), (open(), 2)] {
        let edge = site(&config).await?;
        if times == 2 {
            wanted(edge.leaf(), SUBJECT, PATIENCE).await?;
        }
        let all = async || {
            let is_all = async || Ok(count(edge.hub(), READINGS).await? >= times * SENT);
            eventually(PATIENCE, "all readings", is_all).await
        };
        stored.push(per_reading(&edge, all).await?);
    }
    let [source, both] = stored[..] else { bail!("two") };
    // Compressed, a source and the subject cost less than a source alone.
    let config = Config { remote: "compression: s2_fast".into(), ..open() };
    let edge = site(&config).await?;
    wanted(edge.leaf(), SUBJECT, PATIENCE).await?;
    let compressed = per_reading(&edge, async || {
        let is_all = async || Ok(count(edge.hub(), READINGS).await? >= 2 * SENT);
        eventually(PATIENCE, "all readings", is_all).await
    });
    let compressed = compressed.await?;
    ensure!(compressed < source, "{compressed} compressed, {source} not");
    let line = format!(
        "unheard {unheard}, subscriber {subscriber}, source {source}, both {both}, compressed {compressed}"
    );
    writeln!(stderr(), "bytes per reading: {line}")?;
    ensure!(unheard < 10 && unheard < subscriber && subscriber < source && source < both, "{line}");
    Ok(())
}

#[tokio::test]
async fn a_stream_with_a_source_and_the_subject_stores_everything_twice() -> Result<()> {
    let only = |part: &str| match part {
        "list" => Config { remote: String::new(), ..Config::default() },
        "deny_exports" => Config { permissions: String::new(), ..Config::default() },
        _ => open(),
    };
    // Either of the two stops it.
    for (part, times) in [("nothing", 2), ("list", 1), ("deny_exports", 1)] {
        let edge = Edge::start(&only(part), |_, options| options)?;
        lay(&edge).await?;
        if times == 2 {
            wanted(edge.leaf(), SUBJECT, PATIENCE).await?;
        }
        succeeds(edge.leaf(), "sensor", "--interval 0s --quiet --count 100")?;
        wait_until_copied(&edge, READINGS, PATIENCE).await?;
        // A second lot behind the first: nothing of the first one is on its way any more.
        succeeds(edge.leaf(), "sensor", "--interval 0s --quiet --count 100")?;
        let expected = 200 * times;
        eventually(PATIENCE, part, async || Ok(count(edge.hub(), READINGS).await? >= expected))
            .await?;
        let found = count(edge.hub(), READINGS).await?;
        ensure!(found == expected, "{part}: {found} in place of {expected}");
    }
    Ok(())
}
