//! Servers that are down or cut off: what goes on, what stands still, and what programs say.

use anyhow::{Result, ensure};
use testkit::{Cluster, Server};

use crate::support::{client, command, command_at, fails, set_replicas, start, succeeds};

const STREAM: &str = "playgrnd_stream";
const ORDERS: &str = "--storage file --replicas 3 --quiet";

fn stored(server: &Server) -> Result<u64> {
    let jsz = server.monitor_until("/jsz?streams=1", |jsz| jsz["streams"] == 1)?;
    let stream = &jsz["account_details"][0]["stream_detail"][0];
    Ok(stream["state"]["messages"].as_u64().unwrap_or_default())
}

/// Waits until a server's copy of the stream has so many messages.
fn until_has(server: &Server, count: u64) -> Result<()> {
    server.monitor_until("/jsz?streams=1", |jsz| {
        jsz["account_details"][0]["stream_detail"][0]["state"]["messages"] == count
    })?;
    Ok(())
}

fn until_all_have(cluster: &Cluster, count: u64) -> Result<()> {
    cluster.servers.iter().try_for_each(|server| until_has(server, count))
}

/// What a publisher says without a majority. It depends on what its server knows of the others by then.
fn ensure_no_majority(error: &str) -> Result<()> {
    let says = ["most servers of the cluster have to run", "timed out"];
    ensure!(says.iter().any(|text| error.contains(text)), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_stored_and_requests_go_on() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    succeeds(command(&cluster, "order-publisher", &format!("{ORDERS} --count 100")))?;
    succeeds(command(&cluster, "config-admin", "set true"))?;
    set_replicas(&client(&cluster.url()).await?, "KV_configs_playgrnd", 3).await?;
    let mut app = start(command(&cluster, "config-app", ""), "on")?;
    let mut consumer = start(command(&cluster, "order-consumer", ""), "100 new")?;
    let mut server = start(command(&cluster, "math-server", ""), "waiting")?;
    consumer.expect("-100:")?;

    cluster.servers[0].kill()?;
    cluster.servers[1].kill()?;
    // Request and reply need no majority, only a way from one program to the other.
    cluster.servers[2].wait_for_subscriptions("math.sum", 1)?;
    let lines = succeeds(command(&cluster, "math-client", "17 25"))?;
    assert_eq!(lines, ["17 + 25 = 42"]);
    let error = fails(command(&cluster, "order-publisher", &format!("{ORDERS} --patience 3s")))?;
    ensure_no_majority(&error)?;
    // The others wait.
    for program in [&mut app, &mut consumer, &mut server] {
        assert!(program.is_running()?);
    }

    // With two of three all go on, and none was started again.
    cluster.servers[0].restart()?;
    cluster.wait_until_healthy()?;
    succeeds(command(&cluster, "order-publisher", &format!("{ORDERS} --count 10")))?;
    consumer.expect("-10:")?;
    succeeds(command(&cluster, "config-admin", "set false"))?;
    app.expect("off")?;
    for program in [&mut app, &mut consumer, &mut server] {
        let ended = program.stop()?;
        assert!(ended.success(), "{ended:?}");
    }
    Ok(())
}

#[test]
fn a_server_that_is_cut_off_acknowledges_nothing() -> Result<()> {
    let cluster = Cluster::with_network(3, |_, options| options)?;
    succeeds(command(&cluster, "order-publisher", &format!("{ORDERS} --count 100")))?;
    let leader = cluster.leader_of(STREAM)?;
    let other = &cluster.servers[(leader + 1) % 3];
    cluster.isolate(leader)?;

    // The leader does not know yet that no server follows it.
    let lonely = &cluster.servers[leader];
    let args = format!("{ORDERS} --count 10 --patience 3s");
    let error = fails(command_at(lonely, "order-publisher", &args))?;
    ensure_no_majority(&error)?;
    succeeds(command_at(other, "order-publisher", &format!("{ORDERS} --count 20")))?;
    // A follower hears of the last one a moment later.
    until_has(other, 120)?;
    cluster.heal();
    until_all_have(&cluster, 120)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_copy_is_away_with_its_server() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    let one = "--storage file --quiet --count 10";
    succeeds(command(&cluster, "order-publisher", one))?;
    let only = cluster.leader_of(STREAM)?;
    cluster.servers[only].kill()?;
    let error = fails(command(&cluster, "order-publisher", &format!("{one} --patience 3s")))?;
    assert!(error.contains("timed out"), "{error}");
    cluster.servers[only].restart()?;
    succeeds(command(&cluster, "order-publisher", one))?;
    assert_eq!(stored(&cluster.servers[only])?, 20);

    // More copies later, without a word to the programs.
    set_replicas(&client(&cluster.url()).await?, STREAM, 3).await?;
    until_all_have(&cluster, 20)?;
    cluster.servers[only].kill()?;
    succeeds(command(&cluster, "order-publisher", &format!("{ORDERS} --count 10")))?;
    Ok(())
}
