//! `mqtt-bridge`: the first version's way to publish beside the sensor's, what an acknowledgement
//! costs, and the latency of the bridge.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use testkit::Server;
use tokio::runtime::Runtime;
use tokio::time::{MissedTickBehavior, interval};

use crate::plot::{Axis, Panel, Plot};
use crate::report::Table;
use crate::stage::{Stage, figure, last_line};

/// Readings with QoS 0, and with QoS 1.
const COUNTS: [u32; 2] = [1_000_000, 200_000];
/// Milliseconds in which messages are published whose latency is measured.
const PACED: usize = 2_000;
/// The ways of a message to a NATS subscriber, and their QoS.
const PROTOCOLS: [&str; 3] = ["NATS", "MQTT, QoS 0", "MQTT, QoS 1"];
const QOS: [Option<QoS>; 3] = [None, Some(QoS::AtMostOnce), Some(QoS::AtLeastOnce)];
const SUBJECT: &str = "device.temp";
const TOPIC: &str = "device/temp";

/// QoS 0 against QoS 1, the client library's queue against one write for many readings, and the time
/// from a publish to a NATS subscriber.
///
/// # Errors
///
/// If a part fails.
pub fn bench(stage: &Stage) -> Result<Vec<Table>> {
    // MQTT needs JetStream.
    let server = Server::start()?.quiet();
    let sensor = stage.program("sensor")?;
    let mut tables = Vec::new();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        tables.push(rate(stage, &server, &sensor, qos)?);
    }
    tables.push(latency(stage, &server)?);
    Ok(tables)
}

fn rate(stage: &Stage, server: &Server, sensor: &Path, qos: QoS) -> Result<Table> {
    let count = COUNTS[usize::from(qos as u8)];
    let title = format!("Readings as fast as the broker takes them, {qos:?} ({count})");
    let names = ["first version (AsyncClient)", "sensor"];
    let runtime = Runtime::new()?;
    let samples = stage.in_turns(&title, &names, |contender| {
        if contender == 0 {
            let time = runtime.block_on(flat_out(server, qos, count))?;
            return Ok(vec![f64::from(count) / time.as_secs_f64()]);
        }
        let mut command = server.command(sensor);
        command.args(["--quiet", "--interval", "0s", "--count", &count.to_string()]);
        let line = last_line(command.args(["--qos", &(qos as u8).to_string()]))?;
        Ok(vec![figure(&line, "(", "/s)")?])
    })?;
    let mut table = Table::new(&title, &["readings/s"]);
    for (name, samples) in names.iter().zip(&samples) {
        table.row(name, samples);
    }
    Ok(table)
}

/// Publishes as `first-sensor` does, but without its pauses, and not only ten readings: one task
/// polls the event loop, another one publishes through the library's queue. Ends when the broker has
/// acknowledged the last reading, or, with QoS 0, has closed the connection after it.
async fn flat_out(server: &Server, qos: QoS, count: u32) -> Result<Duration> {
    const PAYLOAD: &str =
        r#"{"sensor_id":"sensor-1","seq":123456,"celsius":21.5,"timestamp_ms":1790000000000}"#;
    let mut options = MqttOptions::new("flat-out", "127.0.0.1", server.mqtt_port());
    options.set_inflight(100);
    let (mqtt, mut eventloop) = AsyncClient::new(options, 100);
    eventloop.network_options.set_tcp_nodelay(true);
    while !matches!(eventloop.poll().await?, Event::Incoming(Packet::ConnAck(_))) {}
    let start = Instant::now();
    let publishing = tokio::spawn(async move {
        for _ in 0..count {
            mqtt.publish(TOPIC, qos, false, PAYLOAD).await?;
        }
        if qos == QoS::AtMostOnce {
            mqtt.disconnect().await?;
        }
        anyhow::Ok(mqtt)
    });
    let mut acknowledged = 0;
    while acknowledged < count {
        match eventloop.poll().await {
            Ok(Event::Incoming(Packet::PubAck(_))) => acknowledged += 1,
            Ok(_) => {}
            Err(_) if qos == QoS::AtMostOnce => break,
            Err(error) => return Err(error.into()),
        }
    }
    publishing.await??;
    Ok(start.elapsed())
}

fn latency(stage: &Stage, server: &Server) -> Result<Table> {
    let title = format!("From a publish to a NATS subscriber, one each millisecond ({PACED})");
    let runtime = Runtime::new()?;
    let samples = stage.in_turns(&title, &PROTOCOLS, |protocol| {
        runtime.block_on(paced(server, QOS[protocol], 1))
    })?;
    let mut table = Table::new(&title, &["p50 µs", "p99 µs"]);
    for (name, samples) in PROTOCOLS.iter().zip(&samples) {
        table.row(name, samples);
    }
    Ok(table)
}

/// The time to a NATS subscriber, over the rate of the messages.
///
/// # Errors
///
/// If a part fails.
pub fn plot(stage: &Stage) -> Result<Plot> {
    let title = "From a publish to a NATS subscriber";
    let server = Server::start()?.quiet();
    let runtime = Runtime::new()?;
    let columns = stage.sweep(title, &PROTOCOLS, &[1, 2, 5, 10, 20, 50], |protocol, burst| {
        runtime.block_on(paced(&server, QOS[protocol], burst))
    })?;
    // The highest percentiles show what else the machine did.
    let panels = columns.into_iter().take(1).map(|lines| Panel {
        x: Axis::logarithmic("messages each millisecond"),
        y: Axis::logarithmic("latency, µs (p50)"),
        lines,
    });
    Ok(Plot { title: title.into(), panels: panels.collect() })
}

/// The latencies (µs, p50 and p99) from a publisher that publishes `burst` messages each millisecond
/// to a subscriber. Both are in this process, so they share a clock.
async fn paced(server: &Server, qos: Option<QoS>, burst: u32) -> Result<Vec<f64>> {
    let subscriber = async_nats::connect(server.url()).await?;
    let mut messages = subscriber.subscribe(SUBJECT).await?;
    subscriber.flush().await?;
    let publisher = async_nats::connect(server.url()).await?;

    let options = MqttOptions::new("bench", "127.0.0.1", server.mqtt_port());
    let (mqtt, mut eventloop) = AsyncClient::new(options, 10);
    eventloop.network_options.set_tcp_nodelay(true);
    // The server creates a session's streams at its first connection: that is not measured.
    while !matches!(eventloop.poll().await?, Event::Incoming(Packet::ConnAck(_))) {}
    let polling = tokio::spawn(async move { while eventloop.poll().await.is_ok() {} });

    let start = Instant::now();
    let publishing = tokio::spawn(async move {
        let mut ticker = interval(Duration::from_millis(1));
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..PACED {
            ticker.tick().await;
            for _ in 0..burst {
                let now = start.elapsed().as_nanos().to_string();
                match qos {
                    None => publisher.publish(SUBJECT, now.into()).await?,
                    Some(qos) => mqtt.publish(TOPIC, qos, false, now).await?,
                }
            }
        }
        anyhow::Ok((publisher, mqtt))
    });
    let count = PACED * usize::try_from(burst)?;
    let mut taken = Vec::with_capacity(count);
    for _ in 0..count {
        let message = messages.next().await.context("the connection closed")?;
        let sent: u64 = std::str::from_utf8(&message.payload)?.parse()?;
        taken.push(start.elapsed().saturating_sub(Duration::from_nanos(sent)));
    }
    publishing.await??;
    polling.abort();
    taken.sort_unstable();
    let micros = |at: usize| taken[at].as_secs_f64() * 1e6;
    Ok(vec![micros(count / 2), micros(count * 99 / 100)])
}
