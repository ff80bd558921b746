//! Servers that are stopped and started again while requests are in flight.

use std::collections::VecDeque;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::{Cluster, Link, Program, Server, Signal, nats_server};
use tokio::task::JoinHandle;

const SERVER: &str = env!("CARGO_BIN_EXE_math-server");
const SERVICE: &str = env!("CARGO_BIN_EXE_math-service");
const BOTH: [&str; 2] = [SERVER, SERVICE];
const SUBJECT: &str = "math.sum";
/// How many requests are in flight all the time.
const IN_FLIGHT: usize = 64;
/// A reply that has not come by then is lost: a busy machine needs less.
const REPLY_TIMEOUT: Duration = Duration::from_secs(15);

/// Keeps [`IN_FLIGHT`] requests in flight until it is told to stop, and counts replies.
struct Load {
    counts: Arc<Counts>,
    lanes: Vec<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    lost: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    async fn start(url: String, timeout: Duration) -> Result<Self> {
        let options = async_nats::ConnectOptions::new().request_timeout(Some(timeout));
        let nats = options.connect(url).await?;
        let counts = Arc::new(Counts::default());
        let lanes = (0..IN_FLIGHT).map(|_| tokio::spawn(lane(nats.clone(), Arc::clone(&counts))));
        Ok(Self { lanes: lanes.collect(), counts })
    }

    /// Waits until the next 200 replies have come.
    async fn goes_on(&self) -> Result<()> {
        let answered = || self.counts.answered.load(Ordering::Relaxed);
        let enough = answered() + 200;
        while answered() < enough {
            ensure!(self.lanes.iter().any(|lane| !lane.is_finished()));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// How many were answered, and how many lost.
    async fn end(self) -> Result<(u64, u64)> {
        self.counts.stop.store(true, Ordering::Relaxed);
        for lane in self.lanes {
            lane.await??;
        }
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Ok((count(&self.counts.answered), count(&self.counts.lost)))
    }
}

async fn lane(nats: async_nats::Client, counts: Arc<Counts>) -> Result<()> {
    while !counts.stop.load(Ordering::Relaxed) {
        let request = r#"{"x":17,"y":25}"#.into();
        let count = match nats.request(SUBJECT, request).await {
            Ok(reply) => {
                ensure!(reply.payload == r#"{"result":42}"#, "{reply:?}");
                &counts.answered
            }
            Err(_) => &counts.lost,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Starts a server, and waits until nats-server knows its subscription: only then it prints a line.
fn start(command: &mut Command) -> Result<Program> {
    let mut program = Program::spawn(command)?;
    program.expect("waiting for requests on math.sum")?;
    Ok(program)
}

/// Waits for the end of a server that was told to stop, and returns how many requests it took.
fn taken(mut program: Program) -> Result<u64> {
    let ended = program.wait()?;
    ensure!(ended.success() && ended.stderr.is_empty(), "{ended:?}");
    let last = ended.stdout.last().context("nothing said")?;
    let count = last.strip_prefix("took ").context("no count")?;
    let count = count.split(' ').next().context("no count")?;
    Ok(count.parse()?)
}

/// Stops and starts servers in turns: the next one is there before the oldest is stopped. Expects
/// that no request loses its reply.
async fn restart_in_turns(
    load: Load,
    servers: impl Into<VecDeque<Program>>,
    restarts: usize,
    mut start_next: impl FnMut() -> Result<Program>,
) -> Result<()> {
    let mut servers = servers.into();
    let mut stopped = Vec::new();
    for _ in 0..restarts {
        load.goes_on().await?;
        servers.push_back(start_next()?);
        let mut oldest = servers.pop_front().context("servers")?;
        oldest.signal(Signal::TERM)?;
        stopped.push(oldest);
    }
    load.goes_on().await?;
    let (answered, lost) = load.end().await?;
    ensure!(lost == 0, "lost {lost}, answered {answered}");
    for mut server in servers {
        server.signal(Signal::TERM)?;
        stopped.push(server);
    }
    let taken = stopped.into_iter().map(taken).sum::<Result<u64>>()?;
    ensure!(taken == answered, "taken {taken}, answered {answered}");
    Ok(())
}

async fn over_a_link(bin: &str, delay: Duration, restarts: usize) -> Result<()> {
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    link.delay(delay);
    let start = || start(server.command(bin).env("NATS_URL", link.url()));
    let servers = [start()?, start()?];
    let load = Load::start(server.url(), REPLY_TIMEOUT).await?;
    restart_in_turns(load, servers, restarts, start).await
}

async fn on_this_machine(bin: &str) -> Result<()> {
    let server = Server::start()?;
    let start = || start(&mut server.command(bin));
    let servers = [start()?, start()?];
    let load = Load::start(server.url(), REPLY_TIMEOUT).await?;
    restart_in_turns(load, servers, 20, start).await
}

const FAR: Duration = Duration::from_millis(20);
const VERY_FAR: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_of_servers_cost_no_reply() -> Result<()> {
    on_this_machine(SERVER).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_of_services_cost_no_reply() -> Result<()> {
    on_this_machine(SERVICE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_of_servers_far_away_cost_no_reply() -> Result<()> {
    over_a_link(SERVER, FAR, 20).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_of_services_far_away_cost_no_reply() -> Result<()> {
    over_a_link(SERVICE, FAR, 20).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_of_servers_with_round_trips_of_500_ms_cost_no_reply() -> Result<()> {
    over_a_link(SERVER, VERY_FAR, 4).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_of_services_with_round_trips_of_500_ms_cost_no_reply() -> Result<()> {
    over_a_link(SERVICE, VERY_FAR, 4).await
}

/// Waits until a node knows that servers run on two other nodes.
fn wait_for_routes(node: &Server) -> Result<()> {
    node.monitor_until("/routez?subs=1", |routez| {
        let routes = routez["routes"].as_array().into_iter().flatten();
        let leading_here = routes.filter(|route| {
            let subjects = route["subscriptions_list"].as_array();
            subjects.is_some_and(|list| list.iter().any(|subject| subject == SUBJECT))
        });
        leading_here.count() == 2
    })?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_on_other_nodes_of_a_cluster_cost_no_reply() -> Result<()> {
    for bin in BOTH {
        let cluster = Cluster::start(3)?;
        let [first, second, third] = &cluster.servers[..] else {
            anyhow::bail!("three nodes");
        };
        let mut nodes = [first, second].into_iter().cycle();
        let mut start = || start(&mut nodes.next().context("nodes")?.command(bin));
        let servers = [start()?, start()?];
        wait_for_routes(third)?;
        let load = Load::start(third.url(), REPLY_TIMEOUT).await?;
        restart_in_turns(load, servers, 10, start).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_a_nats_server_in_lame_duck_mode_costs_no_reply() -> Result<()> {
    for bin in BOTH {
        let mut cluster = Cluster::start(3)?;
        let lame = cluster.servers[0].id()?;
        let [first, second, third] = &cluster.servers[..] else {
            anyhow::bail!("three nodes");
        };
        let servers = [
            start(&mut first.command(bin))?,
            start(&mut first.command(bin))?,
            start(&mut second.command(bin))?,
        ];
        wait_for_routes(third)?;
        let load = Load::start(third.url(), REPLY_TIMEOUT).await?;
        load.goes_on().await?;
        // It takes no new clients now, and closes connections 10 s later.
        let mut signal = Command::new(nats_server()?);
        let signalled = signal.arg("--signal").arg(format!("ldm={lame}")).status()?;
        ensure!(signalled.success());
        while !first.log().iter().any(|line| line.contains("lame duck")) {
            load.goes_on().await?;
        }
        let start = || start(&mut second.command(bin));
        restart_in_turns(load, servers, 2, start).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_costs_what_it_had_in_hand() -> Result<()> {
    for bin in BOTH {
        let server = Server::start()?;
        let mut victim = start(&mut server.command(bin))?;
        let _survivor = start(&mut server.command(bin))?;
        let load = Load::start(server.url(), Duration::from_secs(5)).await?;
        load.goes_on().await?;
        victim.kill()?;
        server.wait_for_subscriptions(SUBJECT, 1)?;
        load.goes_on().await?;
        let (_, lost) = load.end().await?;
        assert!(lost <= IN_FLIGHT as u64, "{lost}");
    }
    Ok(())
}
