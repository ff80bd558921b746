//! `mqtt-bridge`: what an acknowledgement costs, and what the way over the bridge.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use testkit::Server;
use tokio::time::{MissedTickBehavior, interval};

use crate::report::Table;
use crate::stage::{Stage, figure, last_line};

const COUNT: u32 = 100_000;
const PACED: usize = 2_000;
const SUBJECT: &str = "device.temp";
const TOPIC: &str = "device/temp";

/// QoS 0 against QoS 1, and the time from a publish to a NATS subscriber.
///
/// # Errors
///
/// Where a part fails.
pub fn bench(stage: &Stage) -> Result<Vec<Table>> {
    // MQTT needs JetStream.
    let server = Server::start()?.quiet();
    let sensor = stage.program("mqtt-bridge", "sensor")?;
    Ok(vec![
        rate(stage, &server, &sensor)?,
        latency(stage, &server)?,
    ])
}

fn rate(stage: &Stage, server: &Server, sensor: &std::path::Path) -> Result<Table> {
    let title = format!("Readings of one sensor as fast as the broker takes them ({COUNT})");
    let names = ["QoS 0", "QoS 1"];
    let samples = stage.in_turns(&title, &names, |qos| {
        let (count, qos) = (COUNT.to_string(), qos.to_string());
        let mut command = server.command(sensor);
        command.args(["--quiet", "--interval", "0s"]);
        let line = last_line(command.args(["--count", &count, "--qos", &qos]))?;
        Ok(vec![figure(&line, "(", "/s)")?])
    })?;
    let mut table = Table::new(&title, &["readings/s"]);
    for (name, samples) in names.iter().zip(&samples) {
        table.row(name, samples);
    }
    Ok(table)
}

fn latency(stage: &Stage, server: &Server) -> Result<Table> {
    let title = format!("From a publish to a NATS subscriber, one each millisecond ({PACED})");
    let names = ["NATS", "MQTT, QoS 0", "MQTT, QoS 1"];
    let runtime = tokio::runtime::Runtime::new()?;
    let samples = stage.in_turns(&title, &names, |contender| {
        let qos = [None, Some(QoS::AtMostOnce), Some(QoS::AtLeastOnce)][contender];
        runtime.block_on(paced(server, qos))
    })?;
    let mut table = Table::new(&title, &["p50 µs", "p99 µs"]);
    for (name, samples) in names.iter().zip(&samples) {
        table.row(name, samples);
    }
    Ok(table)
}

/// The way from a publisher to a subscriber of this process, whose clocks are one.
async fn paced(server: &Server, qos: Option<QoS>) -> Result<Vec<f64>> {
    let subscriber = async_nats::connect(server.url()).await?;
    let mut messages = subscriber.subscribe(SUBJECT).await?;
    subscriber.flush().await?;
    let publisher = async_nats::connect(server.url()).await?;

    let options = MqttOptions::new("bench", "127.0.0.1", server.mqtt_port());
    let (mqtt, mut eventloop) = AsyncClient::new(options, 10);
    eventloop.network_options.set_tcp_nodelay(true);
    // A session's streams are made at its first connection: not to be measured.
    while !matches!(eventloop.poll().await?, Event::Incoming(Packet::ConnAck(_))) {}
    let polling = tokio::spawn(async move { while eventloop.poll().await.is_ok() {} });

    let start = Instant::now();
    let publishing = tokio::spawn(async move {
        let mut ticker = interval(Duration::from_millis(1));
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..PACED {
            ticker.tick().await;
            let now = start.elapsed().as_nanos().to_string();
            match qos {
                None => publisher.publish(SUBJECT, now.into()).await?,
                Some(qos) => mqtt.publish(TOPIC, qos, false, now).await?,
            }
        }
        anyhow::Ok((publisher, mqtt))
    });
    let mut taken = Vec::with_capacity(PACED);
    for _ in 0..PACED {
        let message = messages.next().await.context("the connection closed")?;
        let sent: u64 = std::str::from_utf8(&message.payload)?.parse()?;
        taken.push(start.elapsed().saturating_sub(Duration::from_nanos(sent)));
    }
    publishing.await??;
    polling.abort();
    taken.sort_unstable();
    let micros = |at: usize| taken[at].as_secs_f64() * 1e6;
    Ok(vec![micros(PACED / 2), micros(PACED * 99 / 100)])
}
