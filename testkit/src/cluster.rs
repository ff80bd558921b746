//! Several servers that form one cluster.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::link::Link;
use crate::port::Port;
use crate::program::TIMEOUT;
use crate::server::{Options, Ports, Server};
use crate::topology::{Topology, server_at};

/// Between two servers: the pool of three, and one for the system account
/// (docs.nats.io, "Clustering", `pool_size` and `accounts`). Each carries some accounts.
const CONNECTIONS: u32 = 4;

/// Several servers that form one cluster, with JetStream: `n1`, `n2`, `n3`.
#[derive(Debug)]
pub struct Cluster {
    /// The servers of the cluster.
    pub servers: Vec<Server>,
    /// The network between them, if it can be cut.
    links: Vec<Between>,
    /// Held so that no other test gets them.
    _routes: Vec<Port>,
}

/// The way on which one server connects to another. Each of two connects to the other, and both
/// keep the connection that came first.
#[derive(Debug)]
struct Between {
    from: usize,
    to: usize,
    link: Link,
}

impl Cluster {
    /// The ports of three servers in a terminal, as in `docker-compose.yml`.
    pub const PORTS: [Ports; 3] = [
        Ports { nats: 4231, mqtt: 1831, monitoring: 8231 },
        Ports { nats: 4232, mqtt: 1832, monitoring: 8232 },
        Ports { nats: 4233, mqtt: 1833, monitoring: 8233 },
    ];

    /// Starts `size` servers, and waits until they are [healthy](Self::wait_until_healthy).
    ///
    /// # Errors
    ///
    /// If a server does not start, or the cluster is not healthy within 180 s.
    pub fn start(size: usize) -> Result<Self> {
        let routes = (0..size).map(|_| Port::claim()).collect::<Result<Vec<_>>>()?;
        let numbers: Vec<_> = routes.iter().map(Port::number).collect();
        let options = |_, options| options;
        Self::launch(routes, Vec::new(), |_| numbers.clone(), options)
    }

    /// As [`Cluster::start`], with a network between the servers that can be [cut](Self::isolate).
    /// `options` adds to those of a server, whose number counts from 0.
    ///
    /// # Errors
    ///
    /// As [`Cluster::start`].
    pub fn with_network(size: usize, options: impl Fn(usize, Options) -> Options) -> Result<Self> {
        let routes = (0..size).map(|_| Port::claim()).collect::<Result<Vec<_>>>()?;
        let mut links = Vec::new();
        for from in 0..size {
            for to in (0..size).filter(|to| *to != from) {
                links.push(Between { from, to, link: Link::to(routes[to].number())? });
            }
        }
        let mut ways = vec![Vec::new(); size];
        for way in &links {
            ways[way.from].push(way.link.port());
        }
        Self::launch(routes, links, |at| ways[at].clone(), options)
    }

    fn launch(
        routes: Vec<Port>,
        links: Vec<Between>,
        ways: impl Fn(usize) -> Vec<u16>,
        options: impl Fn(usize, Options) -> Options,
    ) -> Result<Self> {
        // Servers tell each other the addresses of all. This one leads nowhere, so that all connections
        // use the links.
        let advertise = if links.is_empty() { "" } else { ", advertise: \"127.0.0.1:1\"" };
        let mut servers = Vec::new();
        for (at, port) in routes.iter().enumerate() {
            let urls = ways(at).into_iter().map(|port| format!("\"nats://127.0.0.1:{port}\""));
            let urls = urls.collect::<Vec<_>>().join(", ");
            let cluster = format!(
                "cluster {{ name: playground, listen: \"127.0.0.1:{}\"{advertise}, routes: [{urls}] }}",
                port.number()
            );
            let given = Server::options().name(&format!("n{}", at + 1)).config(&cluster);
            let mut server = options(at, given).prepare()?;
            server.launch()?;
            servers.push(server);
        }
        for server in &mut servers {
            server.ready()?;
        }
        let cluster = Self { servers, links, _routes: routes };
        cluster.wait_until_healthy()?;
        Ok(cluster)
    }

    /// Waits until every server that is running has all its connections to all others, knows the leader of
    /// JetStream's metadata, and JetStream's API answers through it.
    ///
    /// # Errors
    ///
    /// If that takes more than 180 s.
    pub fn wait_until_healthy(&self) -> Result<()> {
        let running = || self.servers.iter().filter(|server| server.is_running());
        for server in running() {
            server.monitor_until("/routez", |routez| {
                let mut connections = BTreeMap::new();
                for route in routez["routes"].as_array().into_iter().flatten() {
                    *connections.entry(route["remote_id"].as_str()).or_insert(0) += 1;
                }
                connections.len() + 1 == running().count()
                    && connections.values().all(|count| *count == CONNECTIONS)
            })?;
            server.monitor_until("/jsz", |jsz| {
                let cluster = &jsz["meta_cluster"];
                cluster["leader"].is_string() && cluster["cluster_size"] == self.servers.len()
            })?;
            server.wait_for_api()?;
        }
        Ok(())
    }

    /// Cuts a server off from the others: nothing arrives in either direction, and no connection is
    /// closed. Clients reach it as before.
    ///
    /// # Errors
    ///
    /// If the cluster was not started [with a network](Self::with_network).
    pub fn isolate(&self, server: usize) -> Result<()> {
        ensure!(!self.links.is_empty(), "this cluster has no network that can be cut");
        for way in self.links.iter().filter(|way| way.from == server || way.to == server) {
            way.link.cut();
        }
        Ok(())
    }

    /// Ends all cuts.
    pub fn heal(&self) {
        for way in &self.links {
            way.link.heal();
        }
    }

    /// The server that leads a stream, as the servers that are running say: those that follow it
    /// agree.
    ///
    /// # Errors
    ///
    /// If there is none within 180 s.
    pub fn leader_of(&self, stream: &str) -> Result<usize> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(leader) = self.leader_now(stream)? {
                return Ok(leader);
            }
            ensure!(Instant::now() < deadline, "{stream} has no leader");
        }
    }

    fn leader_now(&self, stream: &str) -> Result<Option<usize>> {
        let mut leader = None;
        for server in self.servers.iter().filter(|server| server.is_running()) {
            let jsz = server.monitor("/jsz?streams=1")?;
            let streams = jsz["account_details"][0]["stream_detail"].as_array();
            let here = streams.into_iter().flatten().find(|it| it["name"] == stream);
            let Some(name) = here.and_then(|it| it["cluster"]["leader"].as_str()) else { continue };
            if leader.replace(name.to_owned()).is_some_and(|other| other != name) {
                return Ok(None);
            }
        }
        let Some(name) = leader else { return Ok(None) };
        let number = name.strip_prefix('n').and_then(|number| number.parse::<usize>().ok());
        Ok(Some(number.and_then(|number| number.checked_sub(1)).context("an unknown leader")?))
    }

    /// The URLs of all servers, separated by commas.
    #[must_use]
    pub fn url(&self) -> String {
        self.servers.iter().map(Server::url).collect::<Vec<_>>().join(",")
    }
}

impl Topology for Cluster {
    fn usual_ports(&self) -> &'static [Ports] {
        &Self::PORTS
    }

    fn servers(&self) -> &[Server] {
        &self.servers
    }

    fn servers_mut(&mut self) -> &mut [Server] {
        &mut self.servers
    }

    fn network_keys(&self) -> &'static [(&'static str, &'static str)] {
        &[("xN", "cut it off from the other servers"), ("h", "heal the network")]
    }

    fn press_for_network(&mut self, key: &str) -> Result<String> {
        if key == "h" {
            self.heal();
            return Ok("the network is healed".into());
        }
        let number = key.strip_prefix('x').with_context(|| format!("no key {key:?}"))?;
        let at = server_at(number, &self.servers)?;
        self.isolate(at)?;
        Ok(format!("{} is cut off", self.servers[at].name()))
    }

    fn url(&self) -> String {
        Self::url(self)
    }
}
