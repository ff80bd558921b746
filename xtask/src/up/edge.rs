//! `cargo xtask up --edge`: a hub, a leaf node, and a line that keys cut.

use std::path::PathBuf;

use anstream::println;
use anyhow::Result;
use edged::edge::{HUB, INBOX_PREFIX, LEAF, PORTS};
use edged::{Config, Edge, streams};
use testkit::Ports;

use super::{console, prepare};
use crate::workspace::root;

const HUB_PORTS: Ports = PORTS[0];
const LEAF_PORTS: Ports = PORTS[1];

/// Runs both servers until q or Ctrl-C.
pub fn run(data: Option<PathBuf>, fresh: bool) -> Result<()> {
    let data = std::path::absolute(data.unwrap_or_else(|| root().join("target/edge")))?;
    let mut kept = "";
    for (name, Ports { nats, mqtt, monitoring }) in [(HUB, HUB_PORTS), (LEAF, LEAF_PORTS)] {
        let ports = [(nats, "NATS"), (mqtt, "MQTT"), (monitoring, "monitoring")];
        kept = prepare(&data.join(name).join("store"), fresh, &ports)?;
    }
    let mut edge = Edge::start(&Config::default(), |name, options| {
        let (number, ports) = if name == HUB { (0, HUB_PORTS) } else { (1, LEAF_PORTS) };
        let options = options.ports(ports).folder(data.join(name));
        options.on_line(console::log_of(number, name))
    })?
    .quiet();
    streams::lay_blocking(&edge)?;
    println!("\nhub          nats://localhost:{}", HUB_PORTS.nats);
    println!("leaf         nats://localhost:{}", LEAF_PORTS.nats);
    println!("MQTT         mqtt://localhost:{}, at the leaf", LEAF_PORTS.mqtt);
    let [hub, leaf] = [HUB_PORTS, LEAF_PORTS].map(|ports| ports.monitoring);
    println!("monitoring   http://localhost:{hub}, http://localhost:{leaf}");
    println!("data         {}, {kept}", data.display());
    println!("Now, in each other terminal, the line of the place where you are:\n");
    println!("    export NATS_URL=nats://localhost:{}    # the hub", HUB_PORTS.nats);
    println!(
        "    export NATS_URL=nats://localhost:{} NATS_INBOX_PREFIX={INBOX_PREFIX} \
         MQTT_URL=mqtt://localhost:{}    # the leaf\n",
        LEAF_PORTS.nats, LEAF_PORTS.mqtt
    );
    println!("{}", console::menu(&edge));
    console::obey(&mut edge)?;
    for server in edge.servers_mut() {
        if server.is_running() {
            server.resume()?;
            server.stop()?;
        }
    }
    Ok(())
}
