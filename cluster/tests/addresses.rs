//! Which servers a client finds, and where it goes when its own fails.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use serde_json::Value;
use testkit::{Cluster, Link, Port, Ports, Server};

use crate::support::{command, command_at, start, succeeds};

/// The addresses that a server tells its clients.
fn told(server: &Server) -> Result<Vec<String>> {
    let mut line = String::new();
    BufReader::new(TcpStream::connect(("127.0.0.1", server.port()))?).read_line(&mut line)?;
    let info: Value = serde_json::from_str(line.strip_prefix("INFO ").context("no INFO")?)?;
    let urls = info["connect_urls"].as_array().into_iter().flatten();
    let mut urls: Vec<_> = urls.filter_map(|url| url.as_str().map(str::to_owned)).collect();
    urls.sort();
    Ok(urls)
}

/// Waits until all servers know of the only subscription to `subject`.
fn know(servers: &[Server], subject: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let has = |list: &Value| list.to_string().contains(&format!("\"{subject}\""));
    for server in servers {
        while !has(&server.monitor("/subsz?subs=1&limit=100000")?)
            && !has(&server.monitor("/routez?subs=1")?)
        {
            ensure!(Instant::now() < deadline, "{} does not know of {subject}", server.url());
        }
    }
    Ok(())
}

/// At the first of the addresses there is no server.
#[test]
fn every_program_takes_the_urls_of_several_servers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let db = format!("--db {}", folder.path().join("jobs.db").display());
    let cluster = Cluster::start(3)?;
    let nothing = Port::claim()?;
    let urls = format!("nats://127.0.0.1:{},{}", nothing.number(), cluster.url());
    let command = |program, args: &str| {
        let mut command = command(&cluster, program, args);
        command.env("NATS_URL", &urls);
        command
    };
    let start = |program, args: &str, ready| start(command(program, args), ready);
    let succeeds = |program, args: &str| succeeds(command(program, args));

    succeeds("hello", "")?;
    let mut worker = start("log-worker", "--limit 1", "waiting")?;
    know(&cluster.servers, "logs.process")?;
    succeeds("log-publisher", "--count 1")?;
    ensure!(worker.wait()?.success());
    for program in ["math-server", "math-service"] {
        let mut server = start(program, "", "waiting")?;
        know(&cluster.servers, "math.sum")?;
        succeeds("math-client", "17 25")?;
        ensure!(server.stop()?.success());
    }
    succeeds("order-publisher", "--count 3")?;
    succeeds("order-consumer", "--limit 3")?;
    succeeds("config-admin", "set true")?;
    succeeds("config-app", "--limit 1")?;
    succeeds("job-submit", "email")?;
    succeeds("job-admin", "stats")?;
    succeeds("job-worker", &format!("--kinds email --limit 1 {db}"))?;
    succeeds("device-admin", "interval sensor-1 1s")?;
    for (program, ready) in [("backend", "waiting"), ("recorder", "recording")] {
        ensure!(start(program, "", ready)?.stop()?.success());
    }
    ensure!(start("gateway", "--listen 127.0.0.1:0", "waiting")?.stop()?.success());
    Ok(())
}

#[test]
fn a_program_that_knows_one_server_goes_to_another_when_that_one_is_killed() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    let mut worker = start(command_at(&cluster.servers[0], "log-worker", ""), "waiting")?;
    cluster.servers[0].kill()?;
    worker.expect_stderr("connected to")?;
    know(&cluster.servers[1..], "logs.process")?;
    succeeds(command_at(&cluster.servers[1], "log-publisher", "--count 1"))?;
    worker.expect("log 1")?;
    ensure!(worker.stop()?.success());
    Ok(())
}

#[test]
fn clients_are_told_the_address_that_a_server_advertises() -> Result<()> {
    // Networks in front of the servers, as a router or a container engine is.
    let mut ports = Vec::new();
    let mut ways = Vec::new();
    for _ in 0..3 {
        let [nats, mqtt, monitoring] = [Port::claim()?, Port::claim()?, Port::claim()?];
        ways.push(Link::to(nats.number())?);
        ports.push([nats, mqtt, monitoring]);
    }
    let cluster = Cluster::with_network(3, |at, options| {
        let [nats, mqtt, monitoring] = [0, 1, 2].map(|which| ports[at][which].number());
        let advertise = format!("client_advertise: \"127.0.0.1:{}\"", ways[at].port());
        options.ports(Ports { nats, mqtt, monitoring }).config(&advertise)
    })?;
    let mut advertised: Vec<_> =
        ways.iter().map(|way| format!("127.0.0.1:{}", way.port())).collect();
    advertised.sort();
    assert_eq!(told(&cluster.servers[0])?, advertised);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_of_a_killed_server_spread_over_the_others() -> Result<()> {
    const CLIENTS: usize = 60;
    let mut cluster = Cluster::start(3)?;
    let url = cluster.servers[0].url();
    let clients = try_join_all((0..CLIENTS).map(|_| async_nats::connect(&url))).await?;
    cluster.servers[0].kill()?;
    let count = |server: &Server| -> Result<u64> {
        Ok(server.monitor("/connz")?["num_connections"].as_u64().unwrap_or_default())
    };
    let counts = loop {
        let counts = [count(&cluster.servers[1])?, count(&cluster.servers[2])?];
        if counts.iter().sum::<u64>() == CLIENTS as u64 {
            break counts;
        }
        tokio::task::yield_now().await;
    };
    // By chance: fewer than ten of sixty are on one of two in one run of twenty million.
    ensure!(counts.iter().all(|count| *count >= 10), "{counts:?}");
    drop(clients);
    Ok(())
}
