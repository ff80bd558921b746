//! `jetstream`: what waiting for each acknowledgement costs, what each promise of the server costs,
//! and the first versions beside the services.

use std::fs;
use std::mem;
use std::process::Command;
use std::slice;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::{Cluster, Program, Server};

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
    let publisher = stage.program("jetstream", "order-publisher")?;
    let consumer = stage.program("jetstream", "order-consumer")?;
    let first_publisher = stage.example("jetstream", "first-order-publisher")?;
    let first_consumer = stage.example("jetstream", "first-order-consumer")?;
    let columns = ["stored/s", "taken/s"];

    let names = CASES.map(|case| case.name);
    let title = "Orders stored, then taken";
    let samples = stage.in_turns(title, &names, |at| {
        let case = &CASES[at];
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
        let count = case.count.to_string();
        let mut publish = servers[0].command(&publisher);
        publish.env("NATS_URL", &urls).args(["--quiet", "--count", &count]);
        publish.args(["--storage", case.storage, "--replicas", &case.servers.to_string()]);
        let stored = last_line(publish.args(["--in-flight", &case.in_flight.to_string()]))?;
        let mut consume = servers[0].command(&consumer);
        consume.env("NATS_URL", &urls);
        let taken = last_line(consume.args(["--quiet", "--limit", &count]))?;
        Ok(vec![figure(&stored, "(", "/s)")?, figure(&taken, "(", "/s)")?])
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
        // An order's id has 16 digits and a hyphen; other lines have not.
        if line.as_bytes().get(16) == Some(&b'-') {
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
