//! What the hub lets the leaf node do.

use std::io::{Write, stderr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::ConnectOptions;
use edged::edge::INBOX_PREFIX;
use edged::streams::{CONSUMER, READINGS, client, jetstream};
use edged::{Config, Edge};
use futures::StreamExt;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::support::{PATIENCE, count, eventually, program, site, wait_until_copied, wanted};

/// Time for each part of the lesson if one of them fails.
const SHORT: Duration = Duration::from_secs(4);
/// Lessons at the same time.
const AT_A_TIME: usize = 5;
/// The last message of a key, as config-admin asks for it.
const ASK: &str = r#"{"last_by_subj":"$KV.configs_playgrnd.site_maintenance"}"#;

/// All that the leaf node is for. Fails if a part does not happen in time.
async fn lesson(edge: &Edge, patience: Duration) -> Result<()> {
    let hub = client(&edge.hub().url()).await?;
    let leaf = ConnectOptions::new().custom_inbox_prefix(INBOX_PREFIX);
    let leaf = leaf.connect(edge.leaf().url()).await?;
    let mut status = hub.subscribe("device.status.*").await?;
    wanted(edge.leaf(), "device.status.*", patience).await?;
    let mut app = program(edge.leaf(), "config-app", "")?.timeout(patience);
    app.expect("watching")?;
    let mut sensor = program(edge.leaf(), "sensor", "--interval 10ms")?.timeout(patience);
    sensor.expect("#5:")?;
    // Presence, and commands.
    timeout(patience, status.next()).await.context("no presence")?;
    wanted(edge.hub(), "device.cmd.sensor-1", patience).await?;
    let mut command = program(edge.hub(), "device-admin", "interval sensor-1 5ms")?;
    command.wait()?;
    sensor.expect("interval set to 5ms").context("no command")?;
    for round in 0..2 {
        // Readings, and how far they are stored.
        wait_until_copied(edge, READINGS, patience).await.context("no readings")?;
        // The bucket, both ways.
        let set = |value| format!("set {value}");
        let mut admin = program(edge.hub(), "config-admin", &set("true"))?.timeout(patience);
        ensure!(admin.wait()?.success(), "config-admin at the hub");
        app.expect("is on").context("no change")?;
        let mut admin = program(edge.leaf(), "config-admin", &set("false"))?.timeout(patience);
        ensure!(admin.wait()?.success(), "config-admin at the leaf node");
        app.expect("is off").context("no change")?;
        // Reads before it writes, and again if another program wrote in between.
        let mut admin = program(edge.leaf(), "config-admin", "--cycles 1 --interval 0s")?;
        admin = admin.timeout(patience);
        ensure!(admin.wait()?.success(), "cycles of config-admin at the leaf node");
        app.expect("is off").context("no change")?;
        let asked = leaf.request("$JS.hub.API.STREAM.MSG.GET.KV_configs_playgrnd", ASK.into());
        timeout(patience, asked).await.context("no answer about a message")??;
        if round == 0 {
            edge.line().reset();
        }
    }
    for (server, stream, consumer) in
        [(edge.leaf(), READINGS, CONSUMER), (edge.hub(), "KV_configs_playgrnd", "leaf1")]
    {
        let stream = jetstream(&server.url()).await?.get_stream(stream).await?;
        eventually(patience, "nothing is acknowledged", async || {
            let info = stream.consumer_info(consumer).await?;
            Ok(info.ack_floor.stream_sequence > 0)
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn with_exactly_its_rights_the_leaf_node_does_all_that_it_is_for() -> Result<()> {
    let edge = site(&Config::default()).await?;
    lesson(&edge, PATIENCE).await
}

/// An entry that is not needed would be a right too many.
#[test]
fn without_any_of_its_rights_something_fails() -> Result<()> {
    let permissions = Config::default().permissions;
    let entries: Vec<_> = permissions.lines().filter(|it| it.trim().starts_with('"')).collect();
    let (next, runtime) = (AtomicUsize::new(0), Runtime::new()?);
    let without = |entry: &str| -> Result<()> {
        let less = permissions.replacen(&format!("{entry}\n"), "\n\"nothing\"\n", 1);
        ensure!(less != permissions, "{entry} is not there");
        runtime.block_on(async {
            let config = Config { permissions: less, ..Config::default() };
            let edge = site(&config).await?.quiet();
            let Err(why) = lesson(&edge, SHORT).await else { bail!("{entry} is not needed") };
            writeln!(stderr(), "without {}: {:.60}", entry.trim(), format!("{why:#}"))?;
            Ok(())
        })
    };
    thread::scope(|scope| {
        let work = || {
            while let Some(entry) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
                without(entry)?;
            }
            Ok(())
        };
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|it| it.join().unwrap_or_else(|_| bail!("it panicked")))
    })
}

/// What a program in the plant tries beyond its purpose stays in the plant.
#[tokio::test]
async fn what_is_not_on_the_list_does_not_cross_the_line() -> Result<()> {
    let edge = site(&Config::default()).await?;
    let (hub, leaf) = (client(&edge.hub().url()).await?, client(&edge.leaf().url()).await?);
    let mut at_hub = hub.subscribe(">").await?;
    let mut at_leaf = leaf.subscribe(">").await?;
    hub.flush().await?;
    leaf.flush().await?;
    for subject in ["device.cmd.sensor-1", "orders.created", "$JS.hub.API.STREAM.DELETE.readings"] {
        leaf.publish(subject, "from the plant".into()).await?;
    }
    // After the others, on the same way.
    leaf.publish("device.status.sensor-1", "last".into()).await?;
    for subject in
        ["device.status.sensor-1", "orders.created", "$JS.leaf.API.STREAM.DELETE.readings"]
    {
        hub.publish(subject, "from the office".into()).await?;
    }
    hub.publish("device.cmd.sensor-1", "last".into()).await?;
    for (from, messages, other, last) in [
        (&leaf, &mut at_hub, "from the plant", "device.status.sensor-1"),
        (&hub, &mut at_leaf, "from the office", "device.cmd.sensor-1"),
    ] {
        let arrived = async {
            loop {
                // Again and again: one that comes before the interest of the other side is dropped.
                from.publish(last, "last".into()).await?;
                let Ok(message) = timeout(Duration::from_secs(1), messages.next()).await else {
                    continue;
                };
                let message = message.context("no message")?;
                ensure!(message.payload != other, "{} crossed the line", message.subject);
                if message.subject.as_str() == last && message.payload == "last" {
                    return Ok(());
                }
            }
        };
        timeout(PATIENCE, arrived).await.context("the last message did not come")??;
    }
    for server in [edge.hub(), edge.leaf()] {
        count(server, READINGS).await?;
    }
    Ok(())
}
