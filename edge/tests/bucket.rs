//! A bucket of the hub at the leaf node.

use std::io::{Write, stderr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use edged::Config;
use edged::edge::INBOX_PREFIX;
use testkit::{Program, Topology};

use crate::support::{ready, site, succeeds};

#[tokio::test]
async fn config_app_at_the_leaf_node_reads_during_a_cut_and_follows_after_it() -> Result<()> {
    let edge = site(&Config::default()).await?;
    let mut app = ready(edge.leaf(), "config-app", "", "watching")?;
    succeeds(edge.hub(), "config-admin", "set true")?;
    app.expect("#1 site_maintenance is on")?;
    edge.line().cut();
    // One that starts now has the last value.
    let mut late = ready(edge.leaf(), "config-app", "", "#1 site_maintenance is on")?;
    succeeds(edge.hub(), "config-admin", "set false")?;
    edge.wait_until_noticed()?;
    let mut later = ready(edge.leaf(), "config-app", "", "#1 site_maintenance is on")?;
    edge.line().heal();
    let healed = Instant::now();
    for app in [&mut app, &mut late, &mut later] {
        app.expect("#2 site_maintenance is off")?;
    }
    let elapsed = healed.elapsed();
    writeln!(stderr(), "the change is at the leaf node {elapsed:.1?} after the cut")?;
    ensure!(elapsed < Duration::from_secs(20), "{elapsed:?}");
    Ok(())
}

#[tokio::test]
async fn config_admin_at_the_leaf_node_writes_to_the_bucket_of_the_hub() -> Result<()> {
    let edge = site(&Config::default()).await?;
    let mut app = ready(edge.hub(), "config-app", "", "watching")?;
    let mut here = ready(edge.leaf(), "config-app", "", "watching")?;
    succeeds(edge.leaf(), "config-admin", "set true")?;
    for app in [&mut app, &mut here] {
        app.expect("#1 site_maintenance is on")?;
    }
    // Each write names the revision that it replaces: it is compared with the bucket of the hub,
    // not with a mirror that is late.
    let ended = succeeds(edge.leaf(), "config-admin", "--cycles 10 --interval 0s")?;
    ensure!(ended.stderr.is_empty(), "{ended:?}");
    for app in [&mut app, &mut here] {
        app.expect("#21 site_maintenance is on")?;
    }
    let ended = succeeds(edge.leaf(), "config-admin", "history")?;
    ensure!(ended.stdout.len() == 21, "{ended:?}");
    Ok(())
}

#[tokio::test]
async fn config_admin_at_the_leaf_node_waits_for_the_hub() -> Result<()> {
    let mut edge = site(&Config::default()).await?;
    edge.servers_mut()[0].kill()?;
    edge.leaf().monitor_until("/leafz", |leafz| leafz["leafnodes"] == 0)?;
    let mut admins = Vec::new();
    for _ in 0..2 {
        let mut command = edge.leaf().command(testkit::program("config-admin"));
        command.args(["set", "true"]).env("NATS_INBOX_PREFIX", INBOX_PREFIX);
        let mut admin = Program::spawn(command.env("RUST_LOG", "debug"))?;
        admin.expect_stderr("configs_playgrnd is a mirror here, and its origin does not answer")?;
        admins.push(admin);
    }
    // One is told to stop meanwhile, and says what it does not know.
    let ended = admins.pop().context("none")?.stop()?;
    let last = ended.stderr.last().context("it does not say why")?;
    ensure!(ended.code() == Some(1) && last.contains("confirmed no change"), "{ended:?}");
    edge.servers_mut()[0].restart()?;
    let ended = admins.pop().context("none")?.wait()?;
    ensure!(ended.success(), "{ended:?}");
    Ok(())
}
