//! Programs for the checks that no first version and no exercise fails: `flawed ROLE FLAW`. With
//! another word in place of a flaw a program does what the checks in tests/flaws.rs want.

use std::collections::HashSet;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write, stdout};
use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{Consumer, DeliverPolicy, pull};
use async_nats::jetstream::{self, AckKind, kv, stream};
use async_nats::{Client, ConnectOptions, HeaderMap, Message};
use futures::StreamExt;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result {
    let mut args = std::env::args().skip(1);
    let role = args.next().unwrap_or_default();
    let flaw = args.next().unwrap_or_default();
    let flaw = flaw.as_str();
    if flaw == "ends" {
        return Ok(());
    }
    let options = match flaw {
        "never-reconnects" => ConnectOptions::new().max_reconnects(1),
        _ => ConnectOptions::new(),
    };
    let url = std::env::var("NATS_URL").unwrap_or("localhost:4222".into());
    let nats = options.connect(url).await?;
    if flaw != "no-handler" {
        let (nats, flushes) = (nats.clone(), flaw == "flushes-without-limit");
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            if flushes {
                // Not every flush waits while there is no connection; a publish and a reply do.
                let _ = round_trip(&nats).await;
            }
            std::process::exit(0);
        });
    }
    match role.as_str() {
        "log-worker" => log_worker(nats, flaw).await,
        "math-client" => math_client(nats).await,
        "math-server" => math_server(nats, flaw).await,
        "order-publisher" => order_publisher(nats, flaw).await,
        "order-consumer" => order_consumer(nats, flaw).await,
        "config-app" => config_app(nats, flaw).await,
        "config-admin" => config_admin(nats).await,
        "sensor" => sensor(flaw).await,
        "recorder" => recorder(nats, flaw).await,
        "job-worker" => job_worker(nats, flaw).await,
        _ => Err("no such role".into()),
    }
}

/// Waits for a message to itself.
async fn round_trip(nats: &Client) -> Result {
    let inbox = nats.new_inbox();
    let mut echo = nats.subscribe(inbox.clone()).await?;
    nats.publish(inbox, "".into()).await?;
    echo.next().await.ok_or("the connection is closed")?;
    Ok(())
}

async fn log_worker(nats: Client, flaw: &str) -> Result {
    let mut logs = nats.queue_subscribe("logs.process", "log_workers".into()).await?;
    let mut out = BufWriter::new(stdout());
    while let Some(message) = logs.next().await {
        let log: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        writeln!(out, "log {}", log["id"])?;
        if flaw != "buffers" {
            out.flush()?;
        }
    }
    Ok(())
}

/// Multiplies.
async fn math_client(nats: Client) -> Result {
    let reply = nats.request("math.sum", r#"{"x":17,"y":25}"#.into()).await?;
    drop(reply);
    writeln!(stdout(), "{}", 17 * 25)?;
    Ok(())
}

async fn math_server(nats: Client, flaw: &str) -> Result {
    let mut requests = match flaw {
        "no-group" => nats.subscribe("math.sum").await?,
        _ => nats.queue_subscribe("math.sum", "math_servers".into()).await?,
    };
    while let Some(request) = requests.next().await {
        if flaw == "impatient" {
            timeout(Duration::from_millis(100), round_trip(&nats)).await??;
        }
        let Some(reply) = request.reply else {
            if flaw == "needs-a-reply-subject" {
                return Err("no reply subject".into());
            }
            continue;
        };
        let numbers: Value = serde_json::from_slice(&request.payload).unwrap_or_default();
        let sum = match (numbers["x"].as_i64(), numbers["y"].as_i64(), flaw) {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                reason = "the flaw"
            )]
            (Some(x), Some(y), "adds-in-floats") => Some((x as f64 + y as f64) as i64),
            (Some(x), Some(y), _) => x.checked_add(y),
            _ => None,
        };
        match sum {
            Some(sum) => nats.publish(reply, json!({ "result": sum }).to_string().into()).await?,
            None => nats.publish_with_headers(reply, HeaderMap::new(), "".into()).await?,
        }
    }
    Ok(())
}

fn orders() -> stream::Config {
    let (name, subjects) = ("playgrnd_stream".into(), vec!["orders.>".into()]);
    stream::Config { name, subjects, ..Default::default() }
}

async fn order_publisher(nats: Client, flaw: &str) -> Result {
    let jetstream = jetstream::new(nats);
    jetstream.get_or_create_stream(orders()).await?;
    for number in 1..=10 {
        let id = format!("order-{number:06}");
        let order = json!({ "order_id": id, "item": "mouse", "quantity": 1 }).to_string();
        jetstream.publish("orders.created", order.into()).await?.await?;
        if flaw != "silent" {
            writeln!(stdout(), "{id}")?;
        }
    }
    Ok(())
}

/// The durable consumer of a stream.
async fn durable(
    nats: &Client,
    stream: stream::Config,
    name: &str,
    deliver_policy: DeliverPolicy,
) -> Result<Consumer<pull::Config>> {
    let stream = jetstream::new(nats.clone()).get_or_create_stream(stream).await?;
    let ack_wait = Duration::from_secs(2);
    let durable_name = Some(name.into());
    let config = pull::Config { durable_name, ack_wait, deliver_policy, ..Default::default() };
    Ok(stream.get_or_create_consumer(name, config).await?)
}

async fn order_consumer(nats: Client, flaw: &str) -> Result {
    let from = match flaw {
        "only-new" => DeliverPolicy::New,
        _ => DeliverPolicy::All,
    };
    let consumer = durable(&nats, orders(), "order_processor", from).await?;
    let mut messages = consumer.messages().await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        let order: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        writeln!(stdout(), "{}", order["order_id"])?;
        message.ack().await?;
    }
    Ok(())
}

async fn bucket(nats: Client) -> Result<kv::Store> {
    let config =
        kv::Config { bucket: "configs_playgrnd".into(), history: 64, ..Default::default() };
    Ok(jetstream::new(nats).create_key_value(config).await?)
}

async fn config_app(nats: Client, flaw: &str) -> Result {
    let bucket = bucket(nats).await?;
    if flaw == "asks-now-and-then" {
        let mut last = None;
        loop {
            let value = bucket.get("site_maintenance").await?;
            if value != last {
                let state = if value == Some("true".into()) { "on" } else { "off" };
                writeln!(stdout(), "{state}")?;
                last = value;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
    let mut changes = bucket.watch_with_history("site_maintenance").await?;
    while let Some(change) = changes.next().await {
        let change = change?;
        let is_on = match flaw {
            "not-false-is-on" => change.value != "false",
            _ => change.operation == kv::Operation::Put && change.value == "true",
        };
        writeln!(stdout(), "{}", if is_on { "on" } else { "off" })?;
    }
    Ok(())
}

/// Writes other words.
async fn config_admin(nats: Client) -> Result {
    let bucket = bucket(nats).await?;
    for value in ["on", "off"] {
        bucket.put("site_maintenance", value.into()).await?;
    }
    Ok(())
}

async fn sensor(flaw: &str) -> Result {
    const COUNT: u64 = 10;
    let url = std::env::var("MQTT_URL").unwrap_or("mqtt://localhost".into());
    let (mqtt, mut eventloop) =
        AsyncClient::new(MqttOptions::parse_url(format!("{url}?client_id=prove-1"))?, 100);
    let first = u64::from(flaw != "counts-from-zero");
    for seq in first..first + COUNT {
        let reading =
            json!({ "sensor_id": "prove-1", "seq": seq, "celsius": 21.5, "timestamp_ms": 1 });
        mqtt.publish("device/temp", QoS::AtLeastOnce, false, reading.to_string()).await?;
    }
    let mut acknowledged = 0;
    while acknowledged < COUNT {
        if let Event::Incoming(Packet::PubAck(_)) = eventloop.poll().await? {
            acknowledged += 1;
        }
    }
    Ok(())
}

async fn recorder(nats: Client, flaw: &str) -> Result {
    let (name, subjects) = ("readings".into(), vec!["device.temp".into()]);
    let readings = stream::Config { name, subjects, ..Default::default() };
    let consumer = durable(&nats, readings, "recorder", DeliverPolicy::All).await?;
    if flaw == "plain-subscriber" {
        let mut readings = nats.subscribe("device.temp").await?;
        while let Some(message) = readings.next().await {
            record(&message, flaw)?;
        }
        return Ok(());
    }
    let mut recorded = HashSet::new();
    let mut messages = consumer.messages().await?;
    let mut batch = Vec::new();
    while let Some(message) = messages.next().await {
        let message = message?;
        if flaw == "acknowledges-first" {
            message.ack().await?;
        }
        // With the other flaws a batch is one reading.
        batch.push(message);
        if flaw == "acknowledges-first" && batch.len() < 100 {
            continue;
        }
        for message in batch.drain(..) {
            let is_new = recorded.insert(message.payload.clone());
            if is_new || flaw == "remembers-nothing" {
                record(&message, flaw)?;
            }
            message.ack().await?;
        }
    }
    Ok(())
}

fn record(message: &Message, flaw: &str) -> Result {
    let reading: Value = match serde_json::from_slice(&message.payload) {
        Ok(reading) => reading,
        Err(error) if flaw == "stumbles" => return Err(error.into()),
        Err(_) => return Ok(()),
    };
    writeln!(stdout(), "{} #{}", reading["sensor_id"], reading["seq"])?;
    Ok(())
}

/// A file beside that of `--db` is the effect of a job.
async fn job_worker(nats: Client, flaw: &str) -> Result {
    let args: Vec<String> = std::env::args().collect();
    let value = |flag| args.iter().skip_while(|arg| *arg != flag).nth(1);
    let work = value("--work").and_then(|work| work.strip_suffix('s')?.parse().ok());
    let work = Duration::from_secs(work.unwrap_or_default());
    let kinds = if flaw == "only-emails" { "email" } else { "*" };
    let config = pull::Config {
        durable_name: Some("workers".into()),
        filter_subject: format!("jobs.new.{kinds}.>"),
        ack_wait: Duration::from_secs(2),
        ..Default::default()
    };
    let stream = jetstream::new(nats).get_stream("jobs").await?;
    let mut messages = stream.get_or_create_consumer("workers", config).await?.messages().await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        let job: Value = serde_json::from_slice(&message.payload)?;
        let id = job["job_id"].as_str().ok_or("no id")?;
        if job["kind"] == "flaky" && message.info()?.delivered < 3 {
            writeln!(stdout(), "{id} again")?;
            let pause = (flaw != "nak-at-once").then_some(Duration::from_secs(1));
            message.ack_with(AckKind::Nak(pause)).await?;
            continue;
        }
        let file = format!("{}.{id}", value("--db").ok_or("no --db")?);
        let is_known = Path::new(&file).exists();
        let end = Instant::now() + work;
        while !is_known && Instant::now() < end {
            sleep(Duration::from_millis(500)).await;
            if flaw != "reports-nothing" {
                message.ack_with(AckKind::Progress).await?;
            }
        }
        // Only one program creates it.
        let is_new = File::create_new(file).is_ok();
        if is_new || flaw == "looks-before-only" && !is_known {
            writeln!(stdout(), "{id} done")?;
        }
        message.ack().await?;
    }
    Ok(())
}
