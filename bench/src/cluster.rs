//! `cluster`: how long publishing stands still when the leader of a stream fails, and what an upgrade
//! of all servers costs.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::{Cluster, Program, Server};

use crate::Step;
use crate::report::Table;
use crate::stage::{Stage, figure};

const SERVERS: usize = 3;
/// Orders, and when the leader fails.
const ORDERS: usize = 6_000;
const FAILS_AT: usize = 2_000;
/// Time for all of them.
const TIMEOUT: Duration = Duration::from_secs(60);
const STREAM: &str = "playgrnd_stream";
/// Requests, and how many are in flight.
const REQUESTS: &str = "600000";
const IN_FLIGHT: &str = "16";
/// Clients are sent away after a second, in place of ten.
const GRACE: &str = "lame_duck_grace_period: \"1s\"\nlame_duck_duration: \"30s\"";

const FAULTS: [&str; 4] = ["killed (kill -9)", "stopped (SIGTERM)", "paused (SIGSTOP)", "cut off"];
const UPGRADES: [&str; 2] = ["stopped (SIGTERM)", "lame duck mode"];

/// Standstills, then upgrades.
pub const STEPS: &[Step] =
    &[|stage| Ok(vec![standstills(stage)?]), |stage| Ok(vec![upgrades(stage)?])];

fn standstills(stage: &Stage) -> Result<Table> {
    let publisher = stage.program("order-publisher")?;
    let title = format!("The leader of a stream with three replicas fails ({ORDERS} orders)");
    let samples = stage.in_turns(&title, &FAULTS, |fault| {
        let mut cluster = cluster()?;
        let publisher = |count: usize| {
            let args = ["--storage", "file", "--replicas", "3", "--in-flight", "16"];
            let mut command = cluster.servers[0].command(&publisher);
            command.args(args).args(["--count", &count.to_string()]);
            command
        };
        ensure!(Program::spawn(&mut publisher(1))?.quiet().wait()?.success(), "no stream");
        let leader = cluster.leader_of(STREAM)?;
        // Connected to the leader it would hear nothing for as long as that one is cut off.
        let mut command = publisher(ORDERS);
        command.env("NATS_URL", cluster.servers[(leader + 1) % SERVERS].url());
        let (sender, lines) = channel();
        let mut publishing = Program::spawn_watched(&mut command, move |_| {
            let _ = sender.send(Instant::now());
        })?;
        let next = || lines.recv_timeout(TIMEOUT).context("no more orders were stored");
        let (mut last, mut standstill) = (next()?, Duration::ZERO);
        for order in 1..ORDERS {
            if order == FAILS_AT {
                match fault {
                    0 => cluster.servers[leader].kill()?,
                    1 => cluster.servers[leader].stop()?,
                    2 => cluster.servers[leader].suspend()?,
                    _ => cluster.isolate(leader)?,
                }
            }
            let stored = next()?;
            standstill = standstill.max(stored - last);
            last = stored;
        }
        ensure!(publishing.wait()?.success(), "not all orders were stored");
        Ok(vec![standstill.as_secs_f64()])
    })?;
    Ok(table(&title, "longest standstill, s", &FAULTS, &samples))
}

fn upgrades(stage: &Stage) -> Result<Table> {
    let math_server = stage.program("math-server")?;
    let math_client = stage.program("math-client")?;
    let title = format!("All servers upgraded in turn, {IN_FLIGHT} requests in flight");
    let samples = stage.in_turns(&title, &UPGRADES, |way| {
        let mut cluster = cluster()?;
        let url = cluster.url();
        let command = |program: &std::path::Path| {
            let mut command = cluster.servers[0].command(program);
            command.env("NATS_URL", &url);
            command
        };
        let mut servers = [
            Program::spawn(&mut command(&math_server))?.quiet(),
            Program::spawn(&mut command(&math_server))?.quiet(),
        ];
        for server in &mut servers {
            server.expect("waiting")?;
        }
        let mut client = command(&math_client);
        client.args(["--quiet", "--count", REQUESTS, "--concurrency", IN_FLIGHT]);
        let mut client = Program::spawn(&mut client)?.quiet();
        for at in 0..SERVERS {
            let server = &mut cluster.servers[at];
            if way == 0 {
                server.stop()?;
            } else {
                server.lame_duck()?;
                server.wait()?;
            }
            server.restart()?;
            cluster.wait_until_healthy()?;
        }
        ensure!(client.is_running()?, "too few requests");
        let ended = client.wait()?;
        let last = ended.stdout.last().context("nothing was printed")?;
        let answered = figure(&format!("={last}"), "=", " requests")?;
        Ok(vec![REQUESTS.parse::<f64>()? - answered])
    })?;
    Ok(table(&title, "requests without a reply", &UPGRADES, &samples))
}

fn table(title: &str, column: &str, names: &[&str], samples: &[Vec<Vec<f64>>]) -> Table {
    let mut table = Table::new(title, &[column]);
    for (name, samples) in names.iter().zip(samples) {
        table.row(name, samples);
    }
    table
}

fn cluster() -> Result<Cluster> {
    let mut cluster = Cluster::with_network(SERVERS, |_, options| options.config(GRACE))?;
    cluster.servers.iter_mut().for_each(Server::be_quiet);
    Ok(cluster)
}
