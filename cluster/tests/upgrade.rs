//! nats-servers that are replaced one after the other.

use anyhow::Result;
use prove::math_server::{Load, SUBJECT, restart_in_turns};
use prove::{Candidate, Trial};
use testkit::Cluster;

/// Programs leave a nats-server within this time.
const GRACE: &str = "lame_duck_grace_period: \"10s\"\nlame_duck_duration: \"30s\"";

#[test]
fn a_rolling_upgrade_costs_no_reply_if_programs_leave_before_their_nats_server() -> Result<()> {
    let mut cluster = Cluster::with_network(3, |_, options| options.config(GRACE))?;
    let kept = concat!(env!("CARGO_TARGET_TMPDIR"), "/upgrade");
    let trial = Trial::new(&Candidate::new([testkit::program("math-server")])?, kept, 1)?;
    for lame in 0..3 {
        let [next, others] = [1, 2].map(|more| (lame + more) % 3);
        let start = |at: usize| trial.launch(&cluster.servers[at]).ready(SUBJECT);
        let servers = [start(lame)?, start(lame)?];
        // Those of the round before have gone.
        cluster.servers[lame].monitor_until("/connz", |connz| connz["num_connections"] == 2)?;
        cluster.servers[others].wait_for_interest(SUBJECT, 1)?;
        let load = Load::start(&trial, &trial.client(&cluster.servers[others])?);
        load.goes_on()?;
        let server = &mut cluster.servers[lame];
        server.lame_duck()?;
        while !server.log().iter().any(|line| line.contains("lame duck")) {
            load.goes_on()?;
        }
        let start = || {
            let started = trial.launch(&cluster.servers[next]).ready(SUBJECT)?;
            // The client's nats-server knows that there are servers on both. The one in lame duck mode
            // passes on what comes for a server that has just left it.
            cluster.servers[others].wait_for_interest(SUBJECT, 2)?;
            cluster.servers[lame].wait_for_interest(SUBJECT, 1)?;
            Ok(started)
        };
        restart_in_turns(&trial, load, servers, 2, start)?;
        // It ends when its clients have gone, and is replaced.
        cluster.servers[lame].wait()?;
        cluster.servers[lame].restart()?;
        cluster.wait_until_healthy()?;
    }
    Ok(())
}
