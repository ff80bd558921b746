//! The two servers, and the line between them: `cargo xtask up --edge`.

use std::time::Duration;

use anyhow::{Result, bail};
use testkit::{Link, Options, Port, Ports, Server, Topology};

/// JetStream domain of the hub, and name of its server.
pub const HUB: &str = "hub";
/// JetStream domain of the leaf node, and name of its server.
pub const LEAF: &str = "leaf";

/// Inboxes of programs at the leaf node that ask the hub: it gets answers to these only.
pub const INBOX_PREFIX: &str = "_INBOX.leaf1";

/// What a slow line adds to each byte's way, in each direction.
pub const SLOW: Duration = Duration::from_millis(300);

/// Each side asks every 5 s whether the other one is there, and gives up after two questions without
/// an answer: a silent line is noticed after 10 to 15 s, in place of 6 minutes.
const PINGS: &str = "ping_interval: \"5s\"\nping_max: 2\n";

/// What the hub lets the leaf node do: `publish` is what may come from the plant, `subscribe` what
/// may go there.
const PERMISSIONS: &str = r#"
publish: [
  # presence of the sensors
  "device.status.*"
  # readings for the hub's stream, and answers to it
  "edge.leaf1.readings"
  "$JSC.R.>"
  # the mirror of the bucket begins again, and says what it has stored
  "$JS.hub.API.CONSUMER.RESET.KV_configs_playgrnd.leaf1"
  "$JS.FC.KV_configs_playgrnd.leaf1.>"
  # config-admin at the leaf node: reads the bucket, and writes to it
  "$JS.hub.API.STREAM.INFO.KV_configs_playgrnd"
  "$JS.hub.API.DIRECT.GET.KV_configs_playgrnd.$KV.configs_playgrnd.site_maintenance"
  "$JS.hub.API.STREAM.MSG.GET.KV_configs_playgrnd"
  "$JS.hub.API.$KV.configs_playgrnd.site_maintenance"
]
subscribe: [
  # commands for the sensors
  "device.cmd.*"
  # the hub's stream begins again, and says what it has stored
  "$JS.leaf.API.CONSUMER.RESET.readings.hub"
  "$JS.FC.readings.hub.>"
  # changes of the bucket for the mirror, and answers to it
  "edge.leaf1.configs"
  "$JSC.R.>"
  # answers to config-admin
  "_INBOX.leaf1.>"
]
"#;

/// What the leaf node does not let out, whatever the hub allows.
const REMOTE: &str = r#"deny_exports: ["device.temp"]"#;

/// The parts of the configuration that tests change.
#[derive(Clone, Debug)]
pub struct Config {
    /// Rights of the leaf node's user at the hub: the block `permissions`.
    pub permissions: String,
    /// More about the leaf node's connection to the hub.
    pub remote: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { permissions: PERMISSIONS.into(), remote: REMOTE.into() }
    }
}

/// The ports of hub and leaf node in a terminal. Devices find their broker at the usual one, at the
/// leaf node.
pub const PORTS: [Ports; 2] = [
    Ports { nats: 4222, mqtt: 1884, monitoring: 8222 },
    Ports { nats: 4223, mqtt: 1883, monitoring: 8223 },
];

/// A hub, and a leaf node whose line to it can be cut.
#[derive(Debug)]
pub struct Edge {
    servers: [Server; 2],
    line: Link,
    /// Held so that no other test gets it.
    _leafnodes: Port,
}

impl Edge {
    /// Starts both servers, and waits until the line is up. `options` adds to those of the server
    /// with that name.
    ///
    /// # Errors
    ///
    /// If a server does not start, or there is no connection within 180 s.
    pub fn start(config: &Config, options: impl Fn(&str, Options) -> Options) -> Result<Self> {
        let leafnodes = Port::claim()?;
        let line = Link::to(leafnodes.number())?;
        // Programs at the hub connect as `office`, without saying so. Otherwise the leaf node would
        // learn other addresses of the hub, and use them past the line.
        let hub = format!(
            "{PINGS}
            authorization {{ users: [
              {{ user: office, password: office }}
              {{ user: leaf1, password: leaf1, permissions {{ {} }} }}
            ] }}
            no_auth_user: office
            leafnodes {{ listen: \"127.0.0.1:{}\", no_advertise: true }}",
            config.permissions,
            leafnodes.number()
        );
        let leaf = format!(
            "{PINGS}
            leafnodes {{
              reconnect: \"1s\"
              remotes: [{{ url: \"nats-leaf://leaf1:leaf1@127.0.0.1:{}\"\n{} }}]
            }}",
            line.port(),
            config.remote
        );
        let server = |name: &str, text: &str| {
            let domain = format!("domain: {name}");
            options(name, Server::options().name(name).jetstream(&domain).config(text)).start()
        };
        let edge = Self {
            servers: [server(HUB, &hub)?, server(LEAF, &leaf)?],
            line,
            _leafnodes: leafnodes,
        };
        edge.wait_until_connected()?;
        Ok(edge)
    }

    /// The server in the office.
    #[must_use]
    pub fn hub(&self) -> &Server {
        &self.servers[0]
    }

    /// The server in the plant.
    #[must_use]
    pub fn leaf(&self) -> &Server {
        &self.servers[1]
    }

    /// The line between them.
    #[must_use]
    pub fn line(&self) -> &Link {
        &self.line
    }

    /// Waits until both servers say that they are connected.
    ///
    /// # Errors
    ///
    /// If that takes more than 180 s.
    pub fn wait_until_connected(&self) -> Result<()> {
        self.wait_for_connections(1)
    }

    /// Waits until both servers have noticed that the line is down.
    ///
    /// # Errors
    ///
    /// If that takes more than 180 s.
    pub fn wait_until_noticed(&self) -> Result<()> {
        self.wait_for_connections(0)
    }

    fn wait_for_connections(&self, count: usize) -> Result<()> {
        for server in &self.servers {
            server.monitor_until("/leafz", |leafz| leafz["leafnodes"] == count)?;
        }
        Ok(())
    }

    /// Quiet servers, see [`Server::quiet`].
    #[must_use]
    pub fn quiet(mut self) -> Self {
        for server in &mut self.servers {
            server.be_quiet();
        }
        self
    }
}

impl Topology for Edge {
    fn usual_ports(&self) -> &'static [Ports] {
        &PORTS
    }

    fn servers(&self) -> &[Server] {
        &self.servers
    }

    fn servers_mut(&mut self) -> &mut [Server] {
        &mut self.servers
    }

    fn network_keys(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("x", "cut the line: nothing arrives, and no connection is closed"),
            ("b", "break its connections: both sides notice at once, and connect again"),
            ("w", "make the line slow: 300 ms each way"),
            ("h", "heal the line"),
        ]
    }

    fn press_for_network(&mut self, key: &str) -> Result<String> {
        match key {
            "x" => self.line.cut(),
            "b" => self.line.reset(),
            "w" => self.line.delay(SLOW),
            "h" => {
                self.line.delay(Duration::ZERO);
                self.line.heal();
            }
            _ => bail!("no key {key:?}"),
        }
        let done = match key {
            "x" => "is cut",
            "b" => "has lost its connections",
            "w" => "is slow",
            _ => "is healed",
        };
        Ok(format!("the line {done}"))
    }

    fn url(&self) -> String {
        self.hub().url()
    }
}
