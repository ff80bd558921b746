//! `jetstream`: what waiting for each acknowledgement costs, what each promise of the server costs,
//! and the first versions beside the services.

use std::collections::HashSet;
use std::fs;
use std::mem;
use std::process::Command;
use std::slice;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::{Cluster, Program, Server};

use crate::plot::{Axis, Panel, Plot};
use crate::report::Table;
use crate::stage::{Stage, figure, last_line};

/// What is measured: the server's promise, and how many orders are in flight.
struct Case {
    name: &'static str,
    servers: usize,
    storage: &'static str,
    /// The server writes each order to the disk before it acknowledges it.
    sync_always: bool,
    in_flight: u64,
    count: u64,
}

/// Fewer orders for what is slow.
const CASES: [Case; 10] = [
    case("memory, 1 in flight", 1, "memory", false, 1, 10_000),
    case("memory, 256 in flight", 1, "memory", false, 256, 200_000),
    case("file, 1 in flight", 1, "file", false, 1, 10_000),
    case("file, 256 in flight", 1, "file", false, 256, 200_000),
    case("file, sync always, 1 in flight", 1, "file", true, 1, 500),
    case("file, sync always, 256 in flight", 1, "file", true, 256, 2_000),
    case("3 replicas, 1 in flight", 3, "file", false, 1, 2_000),
    case("3 replicas, 256 in flight", 3, "file", false, 256, 20_000),
    case("3 replicas, sync always, 1 in flight", 3, "file", true, 1, 200),
    case("3 replicas, sync always, 256 in flight", 3, "file", true, 256, 10_000),
];

const fn case(
    name: &'static str,
    servers: usize,
    storage: &'static str,
    sync_always: bool,
    in_flight: u64,
    count: u64,
) -> Case {
    Case { name, servers, storage, sync_always, in_flight, count }
}

/// Orders in the stream when consumers are killed, …
const KILLED: u32 = 5_000;
/// … and which consumers: the service takes one order at a time if each takes time.
const CONSUMERS: [&str; 3] =
    ["first-order-consumer", "order-consumer --work", "order-consumer, 1,000 a batch"];
/// Orders that are printed one by one.
const PRINTED: u32 = 20_000;
/// Time for all of them.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Publishing, then taking what was published; each in turn, each on servers of its own.
///
/// # Errors
///
/// If a program fails.
pub fn bench(stage: &Stage) -> Result<Vec<Table>> {
    let publisher = stage.program("order-publisher")?;
    let consumer = stage.program("order-consumer")?;
    let first_publisher = stage.example("first-order-publisher")?;
    let first_consumer = stage.example("first-order-consumer")?;
    let columns = ["stored/s", "taken/s"];

    let names = CASES.map(|case| case.name);
    let title = "Orders stored, then taken";
    let samples = stage.in_turns(title, &names, |at| {
        let case = &CASES[at];
        store(stage, case, |server, urls, stored| {
            let mut consume = server.command(&consumer);
            consume.env("NATS_URL", urls).args(["--quiet", "--limit", &case.count.to_string()]);
            Ok(vec![stored, figure(&last_line(&mut consume)?, "(", "/s)")?])
        })
    })?;
    let mut table = Table::new(title, &columns);
    for (name, samples) in names.iter().zip(&samples) {
        table.row(name, samples);
    }

    let names = ["first versions", "services"];
    let printed = PRINTED.to_string();
    let title = format!("Orders stored in memory, then taken, each of {printed} printed");
    let samples = stage.in_turns(&title, &names, |at| {
        let server = Server::start()?.quiet();
        let mut publish = server.command([&first_publisher, &publisher][at]);
        let stored = lines_per_second(match at {
            0 => publish.arg(&printed),
            _ => publish.args(["--count", &printed]),
        })?;
        let mut consume = server.command([&first_consumer, &consumer][at]);
        Ok(vec![stored, lines_per_second(&mut consume)?])
    })?;
    let mut printing = Table::new(&title, &columns);
    for (name, samples) in names.iter().zip(&samples) {
        printing.row(name, samples);
    }
    Ok(vec![table, printing])
}

/// Starts servers and stores orders there. `then` gets one server, the URLs of all, and the orders
/// that were stored each second.
fn store(
    stage: &Stage,
    case: &Case,
    then: impl FnOnce(&Server, &str, f64) -> Result<Vec<f64>>,
) -> Result<Vec<f64>> {
    let (mut server, mut cluster);
    let servers: &mut [Server] = if case.servers == 1 {
        server = Server::start()?.quiet();
        slice::from_mut(&mut server)
    } else {
        cluster = Cluster::start(case.servers)?;
        let servers = mem::take(&mut cluster.servers).into_iter();
        cluster.servers = servers.map(Server::quiet).collect();
        &mut cluster.servers
    };
    if case.sync_always {
        sync_always(servers)?;
    }
    let urls = servers.iter().map(Server::url).collect::<Vec<_>>().join(",");
    let mut publish = servers[0].command(stage.program("order-publisher")?);
    publish.env("NATS_URL", &urls).args(["--quiet", "--count", &case.count.to_string()]);
    publish.args(["--storage", case.storage, "--replicas", &case.servers.to_string()]);
    let stored = last_line(publish.args(["--in-flight", &case.in_flight.to_string()]))?;
    then(&servers[0], &urls, figure(&stored, "(", "/s)")?)
}

/// Orders stored a second, over the number of orders in flight.
///
/// # Errors
///
/// If a program fails.
pub fn plot_acknowledgements(stage: &Stage) -> Result<Plot> {
    const LINES: [&str; 4] = ["memory", "file", "file, sync always", "3 replicas"];
    let title = "Orders stored, by what the acknowledgement promises";
    let lines =
        stage.sweep(title, &LINES, &[1, 3, 10, 30, 100, 300, 1000], |line, in_flight| {
            // Runs of one or two seconds.
            let (one_by_one, at_most) =
                [(5_000, 100_000), (5_000, 100_000), (500, 5_000), (1_500, 30_000)][line];
            let case = Case {
                name: LINES[line],
                servers: if line == 3 { 3 } else { 1 },
                storage: if line == 0 { "memory" } else { "file" },
                sync_always: line == 2,
                in_flight: in_flight.into(),
                count: at_most.min(one_by_one * u64::from(in_flight)),
            };
            store(stage, &case, |_, _, stored| Ok(vec![stored]))
        })?;
    let panel = Panel {
        x: Axis::logarithmic("orders in flight"),
        y: Axis::logarithmic("orders stored a second"),
        lines: lines.into_iter().flatten().collect(),
    };
    Ok(Plot { title: title.into(), panels: vec![panel] })
}

/// Orders that are printed more than once, over the number of consumers that are killed.
///
/// # Errors
///
/// If a program fails.
pub fn plot_duplicates(stage: &Stage) -> Result<Plot> {
    let title = "Consumers are killed while 5,000 orders are printed";
    let lines = stage.sweep(title, &CONSUMERS, &[0, 1, 2, 4, 8], |consumer, kills| {
        duplicates(stage, consumer, kills)
    })?;
    let panel = Panel {
        x: Axis::linear("consumers killed (kill -9)"),
        y: Axis::linear("orders printed again"),
        lines: lines.into_iter().flatten().collect(),
    };
    Ok(Plot { title: title.into(), panels: vec![panel] })
}

/// Kills a consumer each time that it has printed its part of the orders, and starts the next one. How
/// many orders were printed more than once when all were printed.
fn duplicates(stage: &Stage, consumer: usize, kills: u32) -> Result<Vec<f64>> {
    let server = Server::start()?.quiet();
    let mut publish = server.command(stage.program("order-publisher")?);
    last_line(publish.args(["--quiet", "--count", &KILLED.to_string()]))?;
    let (mut printed, mut again) = (HashSet::new(), 0);
    for killed in 0..=kills {
        let mut consume = match consumer {
            0 => server.command(stage.example("first-order-consumer")?),
            _ => server.command(stage.program("order-consumer")?),
        };
        if consumer == 1 {
            // An order at a time.
            consume.args(["--work", "1us"]);
        }
        let (sender, lines) = channel();
        let mut program = Program::spawn_watched(&mut consume, move |line| {
            if let Some((order, _)) = line.split_once(':').filter(|_| is_order(line)) {
                let _ = sender.send(order.to_owned());
            }
        })?;
        let share = KILLED * (killed + 1) / (kills + 1);
        while printed.len() < usize::try_from(share)? {
            let order = lines.recv_timeout(TIMEOUT).context("too few orders were printed")?;
            again += u32::from(!printed.insert(order));
        }
        if killed == kills {
            server.monitor_until("/jsz?consumers=true", all_acknowledged)?;
        }
        program.kill()?;
        // Printed before it was dead.
        for order in lines {
            again += u32::from(!printed.insert(order));
        }
    }
    Ok(vec![again.into()])
}

fn all_acknowledged(jsz: &Value) -> bool {
    let consumer = &jsz["account_details"][0]["stream_detail"][0]["consumer_detail"][0];
    consumer["num_pending"] == 0 && consumer["num_ack_pending"] == 0
}

/// Does the line show an order? The order's id has 16 digits and a hyphen.
fn is_order(line: &str) -> bool {
    line.as_bytes().get(16) == Some(&b'-')
}

/// Starts the servers again with `sync_interval: always`.
fn sync_always(servers: &mut [Server]) -> Result<()> {
    for server in &mut *servers {
        server.kill()?;
        let path = server.folder().join("nats.conf");
        let config = fs::read_to_string(&path)?;
        fs::write(&path, config.replace("jetstream {", "jetstream { sync_interval: always,"))?;
    }
    for server in &mut *servers {
        server.restart()?;
    }
    for server in servers {
        server.monitor_until("/jsz", |jsz| {
            let cluster = &jsz["meta_cluster"];
            jsz["config"]["sync_always"] == true
                && (cluster.is_null() || cluster["leader"].is_string())
        })?;
    }
    Ok(())
}

/// Runs a program until it has printed [`PRINTED`] orders. The clock starts at the first one.
fn lines_per_second(command: &mut Command) -> Result<f64> {
    let (sender, lines) = channel();
    let _program = Program::spawn_watched(command, move |line| {
        if is_order(line) {
            let _ = sender.send(Instant::now());
        }
    })?;
    let first = lines.recv_timeout(TIMEOUT).context("no order was printed")?;
    let mut last = first;
    for _ in 1..PRINTED {
        last = lines.recv_timeout(TIMEOUT).context("too few orders were printed")?;
    }
    ensure!(last > first, "all orders at once");
    Ok(f64::from(PRINTED - 1) / (last - first).as_secs_f64())
}
