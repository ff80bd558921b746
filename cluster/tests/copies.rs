//! How many copies a stream has.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::{Cluster, Program};

use crate::support::{client, command, set_replicas, start, succeeds};

/// How many servers have a copy of each stream.
fn copies(cluster: &Cluster) -> Result<BTreeMap<String, usize>> {
    let mut copies = BTreeMap::new();
    for server in &cluster.servers {
        let jsz = server.monitor("/jsz?streams=1")?;
        let streams = jsz["account_details"][0]["stream_detail"].as_array();
        for stream in streams.into_iter().flatten() {
            let name = stream["name"].as_str().context("no name")?;
            *copies.entry(name.to_owned()).or_default() += 1;
        }
    }
    Ok(copies)
}

#[test]
fn where_copies_come_from() -> Result<()> {
    let cluster = Cluster::start(3)?;
    succeeds(command(&cluster, "order-publisher", "--count 1 --quiet"))?;
    succeeds(command(&cluster, "config-admin", "set true"))?;
    succeeds(command(&cluster, "sensor", "--count 1"))?;
    let mut recorder = Program::spawn(&mut command(&cluster, "recorder", ""))?;
    recorder.expect("recording")?;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut copies = copies(&cluster)?;
        for one in ["playgrnd_stream", "KV_configs_playgrnd", "readings"] {
            assert_eq!(copies.remove(one), Some(1), "{one}");
        }
        // Those of MQTT are left. A server may create its copy a moment after the others.
        assert!(copies.contains_key("$MQTT_sess") && copies.contains_key("$MQTT_rmsgs"));
        if copies.values().all(|count| *count == 3) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{copies:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_gets_more_copies_while_programs_use_it() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    succeeds(command(&cluster, "config-admin", "set true"))?;
    let mut app = start(command(&cluster, "config-app", ""), "on")?;
    set_replicas(&client(&cluster.url()).await?, "KV_configs_playgrnd", 3).await?;
    let leader = cluster.leader_of("KV_configs_playgrnd")?;
    cluster.servers[leader].kill()?;
    succeeds(command(&cluster, "config-admin", "set false"))?;
    app.expect("off")?;
    assert!(app.stop()?.success());
    Ok(())
}
