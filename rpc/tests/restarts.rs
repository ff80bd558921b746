//! Servers that are stopped and started again while requests are in flight: where the checks of
//! `cargo xtask prove` (see prove.rs) do not go.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use prove::math_server::{IN_FLIGHT, Load, SUBJECT, restart_in_turns};
use prove::{Candidate, Trial};
use testkit::{Cluster, Link, Server, nats_server};

const SERVER: &str = env!("CARGO_BIN_EXE_math-server");
const SERVICE: &str = env!("CARGO_BIN_EXE_math-service");
const BOTH: [&str; 2] = [SERVER, SERVICE];

/// Prepares a check of a server, whose output is kept in a folder of this name.
fn trial(bin: &str, name: &str) -> Result<Trial> {
    let kept = concat!(env!("CARGO_TARGET_TMPDIR"), "/restarts");
    let program = bin.rsplit('/').next().unwrap_or_default();
    Trial::new(&Candidate::new([bin])?, format!("{kept}/{name}/{program}"), 1)
}

fn with_round_trips_of_500_ms(bin: &str) -> Result<()> {
    let trial = trial(bin, "far")?;
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    link.delay(Duration::from_millis(250));
    let start = || trial.launch(&server).url(&link.url()).ready(SUBJECT);
    let servers = [start()?, start()?];
    let load = Load::start(&trial, &trial.client(&server)?);
    restart_in_turns(&trial, load, servers, 4, start)?;
    Ok(())
}

#[test]
fn rolling_restarts_of_servers_with_round_trips_of_500_ms_cost_no_reply() -> Result<()> {
    with_round_trips_of_500_ms(SERVER)
}

#[test]
fn rolling_restarts_of_services_with_round_trips_of_500_ms_cost_no_reply() -> Result<()> {
    with_round_trips_of_500_ms(SERVICE)
}

#[test]
fn rolling_restarts_on_other_nodes_of_a_cluster_cost_no_reply() -> Result<()> {
    for bin in BOTH {
        let trial = trial(bin, "cluster")?;
        let cluster = Cluster::start(3)?;
        let [first, second, third] = &cluster.servers[..] else { bail!("three nodes") };
        let mut turn = 0;
        let mut start = || {
            turn += 1;
            trial.launch(if turn % 2 == 1 { first } else { second }).ready(SUBJECT)
        };
        let servers = [start()?, start()?];
        third.wait_for_interest(SUBJECT, 2)?;
        let load = Load::start(&trial, &trial.client(third)?);
        restart_in_turns(&trial, load, servers, 10, start)?;
    }
    Ok(())
}

#[test]
fn leaving_a_nats_server_in_lame_duck_mode_costs_no_reply() -> Result<()> {
    for bin in BOTH {
        let trial = trial(bin, "lame-duck")?;
        let mut cluster = Cluster::start(3)?;
        let lame = cluster.servers[0].id()?;
        let [first, second, third] = &cluster.servers[..] else { bail!("three nodes") };
        let start = |node| trial.launch(node).ready(SUBJECT);
        let servers = [start(first)?, start(first)?, start(second)?];
        third.wait_for_interest(SUBJECT, 2)?;
        let load = Load::start(&trial, &trial.client(third)?);
        load.goes_on()?;
        // It takes no new clients now, and closes connections 10 s later.
        let mut signal = Command::new(nats_server()?);
        let signalled = signal.arg("--signal").arg(format!("ldm={lame}")).status()?;
        ensure!(signalled.success());
        while !first.log().iter().any(|line| line.contains("lame duck")) {
            load.goes_on()?;
        }
        restart_in_turns(&trial, load, servers, 2, || start(second))?;
    }
    Ok(())
}

#[test]
fn a_killed_server_costs_what_it_had_in_hand() -> Result<()> {
    for bin in BOTH {
        let trial = trial(bin, "killed")?;
        let server = Server::start()?;
        let start = || trial.launch(&server).ready(SUBJECT);
        let (mut victim, _survivor) = (start()?, start()?);
        let load = Load::start(&trial, &trial.client(&server)?);
        load.goes_on()?;
        victim.kill();
        server.wait_for_subscriptions(SUBJECT, 1)?;
        load.goes_on()?;
        let (_, lost) = load.end(&trial)?;
        assert!(lost <= IN_FLIGHT as u64, "{lost}");
    }
    Ok(())
}
