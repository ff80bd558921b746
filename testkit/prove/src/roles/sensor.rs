//! `sensor`: sends readings by MQTT.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_nats::Subscriber;
use futures::StreamExt;
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use testkit::{Server, Signal};

use crate::instance::{GRACE, Instance};
use crate::roles::durable::number;
use crate::roles::readings::{READINGS, create};
use crate::verdict::{Flaw, shown};
use crate::{Check, Role, Trial};

const LESSON: &str = "mqtt-bridge/README.md#what-the-service-adds";

/// The sensor's id, unless it takes no notice of `--id`.
const ID: &str = "prove-1";

/// What it sends has to be there by then, if nothing is broken.
const SENT: Duration = Duration::from_secs(30);

/// What the broker does at once has to be there by then.
const SOON: Duration = Duration::from_secs(5);

/// The role.
pub const ROLE: Role = Role {
    name: "sensor",
    contract: include_str!("../../contracts/sensor.txt"),
    checks: &[
        Check {
            name: "starts",
            claim: "sends its readings, and exits with code 0",
            lesson: LESSON,
            run: starts,
        },
        Check {
            name: "slow-broker",
            claim: "a broker that stands still for 2 s: it exits when all readings are acknowledged",
            lesson: LESSON,
            run: slow_broker,
        },
        Check {
            name: "broker-killed",
            claim: "QoS 1 through three kills of the broker: every reading arrives",
            lesson: LESSON,
            run: broker_killed,
        },
        Check {
            name: "presence",
            claim: "online while it runs, offline at its end, both retained",
            lesson: LESSON,
            run: presence,
        },
        Check {
            name: "last-will",
            claim: "killed with -9: the broker says offline for it",
            lesson: LESSON,
            run: last_will,
        },
        Check {
            name: "follows-commands",
            claim: "a command changes its interval",
            lesson: LESSON,
            run: follows_commands,
        },
        Check {
            name: "bad-ids",
            claim: "an id that means something in a topic is a bad command line, exit code 2",
            lesson: LESSON,
            run: bad_ids,
        },
        Check {
            name: "unacknowledged",
            claim: "readings that are not acknowledged: exit code 1, and a line that says so",
            lesson: LESSON,
            run: unacknowledged,
        },
        Check {
            name: "ends",
            claim: "ends within 5 s of SIGTERM and of SIGINT, with exit code 0",
            lesson: LESSON,
            run: ends,
        },
    ],
};

fn count(server: &Server) -> Result<u64> {
    Ok(number(&READINGS.stream_info(server)?, "/state/messages"))
}

/// A server with the stream of the readings.
fn broker(trial: &Trial) -> Result<Server> {
    let server = trial.server()?;
    let nats = trial.client(&server)?;
    trial.block_on(create(&nats))?;
    Ok(server)
}

fn seqs(trial: &Trial, server: &Server) -> Result<BTreeSet<u64>> {
    let nats = trial.client(server)?;
    let readings = trial.block_on(READINGS.stored(&nats))?;
    Ok(readings.iter().filter_map(|reading| reading["seq"].as_u64()).collect())
}

fn starts(trial: &Trial) -> Result<String> {
    let server = broker(trial)?;
    let flags = format!("--id {ID} --count 10 --interval 10ms --qos 1");
    let mut sensor = trial.launch(&server).args(&flags).start()?;
    let begun = Instant::now();
    let end = sensor.ends_by_itself(SENT)?;
    let nats = trial.client(&server)?;
    let readings = trial.block_on(READINGS.stored(&nats))?;
    let good = readings.iter().filter(|reading| {
        reading["sensor_id"].is_string()
            && reading["celsius"].is_number()
            && reading["timestamp_ms"].is_u64()
    });
    let (good, seqs) = (good.count(), seqs(trial, &server)?);
    if end.code != Some(0) || good != 10 || seqs != (1..=10).collect() {
        bail!(
            Flaw::new(format!("{good} of 10 readings arrived as they have to be"))
                .did(format!("It was started with {flags}, and nothing was broken."))
                .saw(format!("{} {} messages arrived, {good} of them readings, with the numbers {seqs:?}.", end.text, readings.len()))
                .likely("It publishes JSON on the MQTT topic device/temp: sensor_id, seq from 1 on, celsius, timestamp_ms.")
        );
    }
    Ok(format!("10 of 10 readings in {}", shown(begun.elapsed())))
}

fn slow_broker(trial: &Trial) -> Result<String> {
    const STANDS_STILL: Duration = Duration::from_secs(2);
    let mut server = broker(trial)?;
    let flags = format!("--id {ID} --count 20 --interval 50ms --qos 1");
    let mut sensor = trial.launch(&server).args(&flags).start()?;
    sensor.wait(SENT, "a reading arrived", || Ok((count(&server)? > 0).then_some(())))?;
    server.suspend()?;
    let begun = Instant::now();
    while begun.elapsed() < STANDS_STILL && sensor.is_running()? {
        thread::sleep(Duration::from_millis(5));
    }
    let early = sensor.end()?;
    if early.is_some() {
        // What was not waited for is lost with the broker.
        server.kill()?;
        server.restart()?;
    } else {
        server.resume()?;
    }
    let end = sensor.ends_by_itself(SENT)?;
    let seqs = seqs(trial, &server)?;
    // First versions take no flags, and send ten.
    let expected = if sensor.stdout().iter().any(|line| line.contains(ID)) { 20 } else { 10 };
    let missing = (1..=expected).filter(|seq| !seqs.contains(seq)).count();
    if early.is_some() || missing > 0 || end.code != Some(0) {
        bail!(
            Flaw::new(format!("{missing} of {expected} readings never arrived"))
                .did(format!("It was started with {flags}. After the first reading the broker stood still{}.", if early.is_some() { ", and was killed when the sensor had ended" } else { " for 2 s" }))
                .saw(format!("{} {missing} readings had not been acknowledged, and are lost.", end.text))
                .likely("`publish` puts a reading into a queue of the client. The broker has it when its PUBACK is there: count those, and end when there is one for each reading.")
        );
    }
    Ok(format!("0 of {expected} readings missing"))
}

fn broker_killed(trial: &Trial) -> Result<String> {
    const KILLS: u64 = 3;
    let mut server = broker(trial)?;
    let flags = format!("--id {ID} --count 300 --interval 10ms --qos 1");
    let mut sensor = trial.launch(&server).args(&flags).start()?;
    let (mut kills, mut before) = (0, 0);
    while kills < KILLS && sensor.is_running()? {
        if count(&server)? >= before + 2 {
            // A broker that still accepts bytes and handles none of them, and then dies.
            server.suspend()?;
            thread::sleep(Duration::from_millis(1_100));
            server.kill()?;
            kills += 1;
            thread::sleep(Duration::from_millis(300));
            server.restart()?;
            before = count(&server)?;
        }
        thread::sleep(Duration::from_millis(2));
    }
    let end = sensor.ends_by_itself(2 * SENT)?;
    let seqs = seqs(trial, &server)?;
    let expected = if sensor.stdout().iter().any(|line| line.contains(ID)) { 300 } else { 10 };
    let missing: Vec<u64> = (1..=expected).filter(|seq| !seqs.contains(seq)).collect();
    if !missing.is_empty() || end.code != Some(0) || kills < KILLS {
        let some: Vec<_> = missing.iter().take(8).collect();
        bail!(
            Flaw::new(format!("{} of {expected} readings never arrived", missing.len()))
                .did(format!("It was started with {flags}. The broker stood still for 1.1 s, was killed, and was back 0.3 s later, {kills} times."))
                .saw(format!("{} Missing are {some:?}{}.", end.text, if missing.len() > 8 { " and more" } else { "" }))
                .likely("A reading counts when its PUBACK is there, not when it is in the client's queue. A broker that has restarted knows no session, and some libraries then drop what is unacknowledged: keep it, and send it again.")
        );
    }
    Ok(format!("0 of {expected} readings missing through {kills} kills"))
}

/// What is said of the presence of sensors, on NATS.
fn statuses(trial: &Trial, server: &Server) -> Result<Subscriber> {
    let nats = trial.client(server)?;
    trial.block_on(async {
        let statuses = nats.subscribe("device.status.>").await?;
        nats.flush().await?;
        Ok(statuses)
    })
}

/// Waits until the status of a sensor is said to be this, and returns the sensor's id.
fn said(
    trial: &Trial,
    statuses: &mut Subscriber,
    expected: &str,
    limit: Duration,
) -> Result<Option<String>> {
    trial.block_on(async {
        let wait = tokio::time::timeout(limit, async {
            loop {
                let status = statuses.next().await.context("the connection is closed")?;
                if status.payload == expected {
                    return anyhow::Ok(status.subject.trim_start_matches("device.status.").into());
                }
            }
        });
        wait.await.ok().transpose()
    })
}

/// What the broker gives to a new subscriber.
fn retained(server: &Server, id: &str) -> Result<Option<String>> {
    let options = MqttOptions::parse_url(format!("{}?client_id=prove", server.mqtt_url()))?;
    let (client, mut connection) = Client::new(options, 10);
    client.subscribe(format!("device/status/{id}"), QoS::AtLeastOnce)?;
    // The broker answers this after it has sent what is retained.
    client.publish("prove", QoS::AtLeastOnce, false, "")?;
    let mut found = None;
    while let Ok(event) = connection.recv_timeout(SOON) {
        match event? {
            Event::Incoming(Packet::Publish(publish)) if publish.retain => {
                found = Some(String::from_utf8_lossy(&publish.payload).into_owned());
            }
            Event::Incoming(Packet::PubAck(_)) => break,
            _ => {}
        }
    }
    Ok(found)
}

/// Waits until the broker retains this: it stores a message a moment after it has passed it on.
fn is_retained(server: &Server, id: &str, expected: &str) -> Result<bool> {
    let begun = Instant::now();
    while begun.elapsed() < SOON {
        if retained(server, id)?.as_deref() == Some(expected) {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(false)
}

/// Starts a copy that sends for ever, and waits until it is online.
fn online(trial: &Trial, server: &Server, statuses: &mut Subscriber) -> Result<(Instance, String)> {
    let flags = format!("--id {ID} --interval 100ms --qos 1");
    let mut sensor = trial.launch(server).args(&flags).start()?;
    sensor.wait(SENT, "a reading arrived", || Ok((count(server)? > 0).then_some(())))?;
    let Some(id) = said(trial, statuses, "online", SOON)? else {
        bail!(
            Flaw::new("no subscriber hears that it is online")
                .did(format!("It was started with {flags}."))
                .saw("Readings arrived, and nothing on device/status/ that says online.")
                .likely("After each connect it publishes `online`, retained, on device/status/ and its id.")
        );
    };
    Ok((sensor, id))
}

fn presence(trial: &Trial) -> Result<String> {
    let server = broker(trial)?;
    let mut statuses = statuses(trial, &server)?;
    let (mut sensor, id) = online(trial, &server, &mut statuses)?;
    let is_online = is_retained(&server, &id, "online")?;
    sensor.signal(Signal::TERM);
    let end = sensor.ends_well(("SIGTERM", Instant::now()));
    let is_said = said(trial, &mut statuses, "offline", SOON)?.is_some();
    let is_offline = is_said && is_retained(&server, &id, "offline")?;
    if !is_online || !is_offline {
        let saw = sensor.end()?.unwrap_or_else(|| "It runs on.".into());
        let yes = |is: bool| if is { "was" } else { "was not" };
        bail!(
            Flaw::new("its presence lies")
                .did("It was started, and got SIGTERM.")
                .saw(format!("While it ran, online {} retained. {saw} Then offline {} retained.", yes(is_online), yes(is_offline)))
                .likely("A program that watches later gets the retained message only. A clean end is no reason for the broker to publish the last will: publish `offline` before it.")
        );
    }
    end?;
    Ok("online, then offline, both retained".into())
}

fn last_will(trial: &Trial) -> Result<String> {
    let server = broker(trial)?;
    let mut statuses = statuses(trial, &server)?;
    let (mut sensor, id) = online(trial, &server, &mut statuses)?;
    sensor.kill();
    let killed = Instant::now();
    let is_said = said(trial, &mut statuses, "offline", SOON)?.is_some();
    let took = killed.elapsed();
    if !is_said || !is_retained(&server, &id, "offline")? {
        bail!(
            Flaw::new("it is online for ever")
                .did("It was killed with -9.")
                .saw(format!("{} later nothing had said offline.", shown(took)))
                .likely("A program that is killed can say nothing: give the broker a last will when you connect, `offline`, retained.")
        );
    }
    Ok(format!("offline {} after the kill, retained", shown(took)))
}

fn follows_commands(trial: &Trial) -> Result<String> {
    let server = broker(trial)?;
    let mut statuses = statuses(trial, &server)?;
    let flags = format!("--id {ID} --interval 1h --qos 1");
    let mut sensor = trial.launch(&server).args(&flags).start()?;
    sensor.wait(SENT, "a reading arrived", || Ok((count(&server)? > 0).then_some(())))?;
    let id = said(trial, &mut statuses, "online", SOON)?.unwrap_or_else(|| ID.into());
    let nats = trial.client(&server)?;
    let before = count(&server)?;
    let begun = Instant::now();
    loop {
        // The subscription may be on its way: sent until it has an effect.
        trial.block_on(nats.publish(format!("device.cmd.{id}"), r#"{"interval_ms":10}"#.into()))?;
        thread::sleep(Duration::from_millis(100));
        if count(&server)? >= before + 20 {
            return Ok(format!("20 readings {} after the command", shown(begun.elapsed())));
        }
        if begun.elapsed() > SOON {
            break;
        }
    }
    bail!(
        Flaw::new(format!(
            "{} readings in {} after the command",
            count(&server)? - before,
            shown(SOON)
        ))
        .did(format!(
            "It was started with {flags}. Then device.cmd.{id} got {{\"interval_ms\":10}}."
        ))
        .saw(sensor.end()?.unwrap_or_else(|| "It runs, and sends as before.".into()))
        .likely("It subscribes to the MQTT topic device/cmd/ and its id, after each connect.")
    )
}

fn bad_ids(trial: &Trial) -> Result<String> {
    const LIKELY: &str = "An id becomes a part of topics and subjects. Whatever is not [A-Za-z0-9_-]{1,64} is a bad command line.";
    let server = broker(trial)?;
    let long = "x".repeat(65);
    let ids = ["", "a b", "a/b", "a.b", "+", "#", "ä", long.as_str()];
    for id in ids {
        let launch = trial.launch(&server).args("--count 1 --interval 10ms").arg("--id").arg(id);
        let mut sensor = launch.start()?;
        let end = sensor.ends_by_itself(SOON).map_err(|_| {
            Flaw::new(format!("it works under the id {id:?}"))
                .did(format!("It was started with --id {id:?}."))
                .saw(format!("{} later it ran.", shown(SOON)))
                .likely(LIKELY)
        })?;
        if end.code != Some(2) {
            bail!(
                Flaw::new(format!("the id {id:?} is no bad command line"))
                    .did(format!("It was started with --id {id:?}."))
                    .saw(end.text)
                    .likely(LIKELY)
            );
        }
    }
    Ok(format!("{} of {} bad ids refused", ids.len(), ids.len()))
}

fn unacknowledged(trial: &Trial) -> Result<String> {
    let mut server = broker(trial)?;
    let flags = format!("--id {ID} --count 1000 --interval 20ms --qos 1");
    let mut sensor = trial.launch(&server).args(&flags).start()?;
    sensor.wait(SENT, "two readings arrived", || Ok((count(&server)? >= 2).then_some(())))?;
    // It accepts what is sent now, and acknowledges nothing.
    server.suspend()?;
    thread::sleep(Duration::from_millis(500));
    server.kill()?;
    thread::sleep(Duration::from_secs(1));
    if let Some(end) = sensor.end()? {
        bail!(
            Flaw::new("it ended with its connection")
                .did("The broker was killed.")
                .saw(end)
                .likely("A connection that is lost is no reason to end: connect again, and send what is not acknowledged.")
        );
    }
    sensor.signal(Signal::TERM);
    let told = Instant::now();
    let end = sensor.ends_by_itself(GRACE)?;
    if end.code != Some(1) || sensor.stderr().is_empty() {
        bail!(
            Flaw::new("it does not say that readings are not acknowledged")
                .did("The broker stood still for 0.5 s and was killed. 1 s later the sensor got SIGTERM.")
                .saw(end.text)
                .likely("Something is left undone: exit code 1, and one line that says how many readings are not acknowledged.")
        );
    }
    Ok(format!("ended after {}, with exit code 1", shown(told.elapsed())))
}

fn ends(trial: &Trial) -> Result<String> {
    let server = broker(trial)?;
    let mut longest = Duration::ZERO;
    for (name, signal) in [("SIGTERM", Signal::TERM), ("SIGINT", Signal::INT)] {
        let before = count(&server)?;
        let flags = format!("--id {ID} --interval 200ms --qos 1");
        let mut sensor = trial.launch(&server).args(&flags).start()?;
        sensor.wait(SENT, "a reading arrived", || Ok((count(&server)? > before).then_some(())))?;
        sensor.signal(signal);
        longest = longest.max(sensor.ends_well((name, Instant::now()))?);
    }
    Ok(format!("ended within {}", shown(longest)))
}
