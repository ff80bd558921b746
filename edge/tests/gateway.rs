//! What an acknowledgement of a reading means if the gateway gives it.

use std::collections::{HashSet, VecDeque};
use std::io::{Write, stderr};

use anyhow::{Context as _, Result, ensure};
use edged::Config;
use edged::streams::{READINGS, client};
use futures::{SinkExt, StreamExt};
use rumqttc::{Codec, Connect, Packet, Publish, QoS};
use testkit::{Program, Server, Topology};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::codec::Framed;

use crate::support::{
    PATIENCE, complete_and_in_order, copied, program, site, stop_sensor, stored, wanted,
};

const MAX_IN_FLIGHT: usize = 1000;
/// Readings that are acknowledged before the leaf node dies.
const ENOUGH: u64 = 3_000;

/// A gateway at the leaf node, and the port on which it listens.
fn gateway(leaf: &Server) -> Result<(Program, u16)> {
    let mut command = leaf.command(env!("CARGO_BIN_EXE_gateway"));
    let mut gateway = Program::spawn(command.args(["--listen", "127.0.0.1:0"]))?;
    let line = gateway.expect("waiting for devices on")?;
    let port = line.rsplit(':').next().context("no port")?.parse()?;
    Ok((gateway, port))
}

/// Publishes readings as fast as they are acknowledged, and does not send one again, until the
/// connection breaks or the receiver of its progress is gone: a leaf node that dies between two
/// readings breaks no connection. Returns the numbers of those that were acknowledged.
async fn publish(port: u16, progress: watch::Sender<u64>) -> Result<Vec<u64>> {
    let codec = Codec { max_incoming_size: 10_240, max_outgoing_size: 10_240 };
    let mut broker = Framed::new(TcpStream::connect(("127.0.0.1", port)).await?, codec);
    broker.send(Packet::Connect(Connect::new("fast"))).await?;
    timeout(PATIENCE, broker.next()).await?.context("no answer")??;
    let (mut in_flight, mut acknowledged, mut seq) = (VecDeque::new(), Vec::new(), 0);
    loop {
        while in_flight.len() < MAX_IN_FLIGHT {
            seq += 1;
            let payload = format!(
                r#"{{"sensor_id":"fast","seq":{seq},"celsius":21.5,"timestamp_ms":1790000000000}}"#
            );
            let mut publish = Publish::new("device/temp", QoS::AtLeastOnce, payload);
            publish.pkid = u16::try_from(seq % 50_000 + 1)?;
            in_flight.push_back((publish.pkid, seq));
            if broker.feed(Packet::Publish(publish)).await.is_err() {
                return Ok(acknowledged);
            }
        }
        if broker.flush().await.is_err() {
            return Ok(acknowledged);
        }
        let Some(Ok(Packet::PubAck(ack))) = broker.next().await else { return Ok(acknowledged) };
        let (pkid, seq) = in_flight.pop_front().context("nothing was in flight")?;
        ensure!(ack.pkid == pkid, "{} was acknowledged in place of {pkid}", ack.pkid);
        acknowledged.push(seq);
        if progress.send(seq).is_err() {
            return Ok(acknowledged);
        }
    }
}

/// Stops the leaf node under full speed, and returns how many acknowledged readings its stream lacks.
async fn lost(is_killed: bool) -> Result<(usize, usize)> {
    let mut edge = site(&Config::default()).await?;
    let (_gateway, port) = gateway(edge.leaf())?;
    let (progress, mut acknowledged) = watch::channel(0);
    let publishing = tokio::spawn(publish(port, progress));
    acknowledged.wait_for(|seq| *seq >= ENOUGH).await?;
    let leaf = &mut edge.servers_mut()[1];
    if is_killed {
        leaf.kill()?;
    } else {
        leaf.stop()?;
    }
    leaf.restart()?;
    drop(acknowledged);
    let acknowledged = timeout(PATIENCE, publishing).await???;
    let stored = stored(edge.leaf(), READINGS).await?;
    let stored: HashSet<_> = stored.get("fast").into_iter().flatten().copied().collect();
    let lost = acknowledged.iter().filter(|seq| !stored.contains(seq)).count();
    Ok((lost, acknowledged.len()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_gateway_has_acknowledged_is_in_the_stream() -> Result<()> {
    for is_killed in [false, true] {
        let (lost, of) = lost(is_killed).await?;
        let line = format!("killed: {is_killed}: lost {lost} of {of}");
        writeln!(stderr(), "{line}")?;
        ensure!(lost == 0, "{line}");
    }
    Ok(())
}

#[tokio::test]
async fn by_the_gateway_no_reading_is_lost_or_doubled_when_the_leaf_node_dies() -> Result<()> {
    let mut edge = site(&Config::default()).await?;
    let (gateway, port) = gateway(edge.leaf())?;
    let hub = client(&edge.hub().url()).await?;
    let mut status = hub.subscribe("device.status.sensor-1").await?;
    hub.flush().await?;
    let args = format!("--interval 2ms --broker mqtt://127.0.0.1:{port}");
    let mut sensor = program(edge.leaf(), "sensor", &args)?;
    sensor.expect("#200:")?;
    wanted(edge.hub(), "device.cmd.sensor-1", PATIENCE).await?;
    let mut command = program(edge.hub(), "device-admin", "interval sensor-1 3ms")?;
    command.wait()?;
    sensor.expect("interval set to 3ms")?;
    for next in ["#600:", "#1000:"] {
        edge.servers_mut()[1].kill()?;
        edge.servers_mut()[1].restart()?;
        sensor.expect(next)?;
    }
    let last = stop_sensor(sensor)?;
    let stored = copied(&edge, PATIENCE).await?;
    let again = complete_and_in_order(stored.get("sensor-1").context("nothing")?, last)?;
    ensure!(again == 0, "{again} readings are there twice");
    // Presence: a sensor that is killed is offline.
    let mut sensor = program(edge.leaf(), "sensor", &args)?;
    sensor.expect("#1:")?;
    sensor.kill()?;
    let mut seen = Vec::new();
    while seen.len() < 2 || seen[seen.len() - 2..] != ["online", "offline"] {
        let message = timeout(PATIENCE, status.next()).await?.context("no status")?;
        seen.push(String::from_utf8(message.payload.to_vec())?);
    }
    let mut gateway = gateway;
    ensure!(gateway.stop()?.success());
    Ok(())
}
