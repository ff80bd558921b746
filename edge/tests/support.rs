//! Programs of the playground on both sides of the line.

use std::collections::{BTreeMap, HashSet};
use std::io::{Write, stderr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::consumer::pull::OrderedConfig;
use edged::streams::{CONSUMER, READINGS, jetstream, lay};
use edged::{Config, Edge};
use futures::StreamExt;
use serde_json::Value;
use testkit::{Ended, Program, Server};
use tokio::time::{sleep, timeout};

/// Time for what takes a moment, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pause before a server is asked again: it has no event for what it has stored.
const PAUSE: Duration = Duration::from_millis(10);

/// Both servers, with what they copy from each other.
pub async fn site(config: &Config) -> Result<Edge> {
    let edge = Edge::start(config, |_, options| options)?;
    lay(&edge).await?;
    Ok(edge)
}

/// What nats-server can leave out: the README's "a gap that nats-server 2.15.1 can make".
const GAP: u64 = 1_000;

/// A program at a server, with the inboxes of the leaf node.
pub fn program(server: &Server, name: &str, args: &str) -> Result<Program> {
    let mut command = server.command(testkit::program(name));
    command.env("NATS_INBOX_PREFIX", edged::edge::INBOX_PREFIX).args(args.split_whitespace());
    Program::spawn(&mut command)
}

/// A program that is ready when it has printed `text`.
pub fn ready(server: &Server, name: &str, args: &str, text: &str) -> Result<Program> {
    let mut program = program(server, name, args)?;
    program.expect(text)?;
    Ok(program)
}

/// Runs a program that succeeds.
pub fn succeeds(server: &Server, name: &str, args: &str) -> Result<Ended> {
    let ended = program(server, name, args)?.wait()?;
    ensure!(ended.success(), "{ended:?}");
    Ok(ended)
}

/// Stops a sensor, which says how many readings were acknowledged.
pub fn stop_sensor(sensor: Program) -> Result<u64> {
    let mut sensor = sensor;
    let ended = sensor.stop()?;
    ensure!(ended.success(), "{ended:?}");
    let last = ended.stdout.iter().rfind(|line| line.contains('#')).context("no reading")?;
    let number = last.split('#').nth(1).and_then(|rest| rest.split(':').next());
    Ok(number.context("no number")?.parse()?)
}

/// Asks again and again until the answer is yes.
pub async fn eventually(
    patience: Duration,
    what: &str,
    is_so: impl AsyncFn() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !is_so().await? {
        ensure!(Instant::now() < deadline, "{what}: not within {patience:?}");
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Waits until a server knows that `subject` is wanted on the other side of the line: what is published
/// before does not cross it.
pub async fn wanted(server: &Server, subject: &str, patience: Duration) -> Result<()> {
    eventually(patience, &format!("interest in {subject}"), async || {
        let leafz = server.monitor("/leafz?subs=1")?;
        let subjects = leafz["leafs"][0]["subscriptions_list"].as_array();
        Ok(subjects.into_iter().flatten().any(|it| it == subject))
    })
    .await
}

/// How many messages a stream has.
pub async fn count(server: &Server, stream: &str) -> Result<u64> {
    let stream = jetstream(&server.url()).await?.get_stream(stream).await?;
    Ok(stream.cached_info().state.messages)
}

/// Waits until a stream of the hub has as many readings as the stream of the leaf node.
pub async fn wait_until_copied(edge: &Edge, stream: &str, patience: Duration) -> Result<()> {
    let here = jetstream(&edge.hub().url()).await?;
    let there = jetstream(&edge.leaf().url()).await?;
    eventually(patience, "all readings at the hub", async || {
        // First what is to come: sensors go on meanwhile.
        let there = there.get_stream(READINGS).await?.cached_info().state.messages;
        let here = here.get_stream(stream).await?.cached_info().state.messages;
        Ok(here >= there)
    })
    .await
}

/// Waits until the hub says that it has stored all readings of the leaf node, and returns them, as
/// [`stored`] does. If nats-server has made the gap that the README tells of, they are those of the
/// leaf node, which has them all.
pub async fn copied(edge: &Edge, patience: Duration) -> Result<BTreeMap<String, Vec<u64>>> {
    let readings = jetstream(&edge.leaf().url()).await?.get_stream(READINGS).await?;
    eventually(patience, "all readings acknowledged by the hub", async || {
        let last = readings.get_info().await?.state.last_sequence;
        Ok(readings.consumer_info(CONSUMER).await?.ack_floor.stream_sequence == last)
    })
    .await?;
    let all = count(edge.leaf(), READINGS).await?;
    let missing = all.saturating_sub(count(edge.hub(), READINGS).await?);
    ensure!(missing <= GAP, "{missing} of {all} readings are missing at the hub");
    if missing == 0 {
        return stored(edge.hub(), READINGS).await;
    }
    writeln!(stderr(), "nats-server has made its gap: {missing} of {all} readings")?;
    stored(edge.leaf(), READINGS).await
}

/// The readings of a stream: for each sensor the numbers in the order in which they are stored.
pub async fn stored(server: &Server, stream: &str) -> Result<BTreeMap<String, Vec<u64>>> {
    let stream = jetstream(&server.url()).await?.get_stream(stream).await?;
    let mut messages = stream.create_consumer(OrderedConfig::default()).await?.messages().await?;
    let mut readings: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for _ in 0..stream.cached_info().state.messages {
        let message = timeout(PATIENCE, messages.next()).await?.context("no message")??;
        let reading: Value = serde_json::from_slice(&message.payload)?;
        let sensor = reading["sensor_id"].as_str().context("no sensor")?;
        let seq = reading["seq"].as_u64().context("no number")?;
        readings.entry(sensor.into()).or_default().push(seq);
    }
    Ok(readings)
}

/// Fails if a number up to `last` is missing, or comes before a smaller one. Numbers that come again
/// are recognised, as `recorder` does. Returns how many there were.
pub fn complete_and_in_order(seqs: &[u64], last: u64) -> Result<usize> {
    let mut seen = HashSet::new();
    let mut first = seqs.iter().copied().filter(|seq| seen.insert(*seq));
    for expected in 1..=last {
        let found = first.next();
        ensure!(found == Some(expected), "{found:?} in place of {expected} of {last}");
    }
    drop(first);
    Ok(seqs.len() - seen.len())
}
