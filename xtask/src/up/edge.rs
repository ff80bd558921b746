//! `cargo xtask up --edge`: a hub, a leaf node, and a line that keys cut.

use std::path::PathBuf;

use anstream::println;
use anyhow::{Result, bail};
use edged::edge::{HUB, INBOX_PREFIX, LEAF, PORTS};
use edged::{Config, Edge, streams};
use testkit::Ports;

use super::{console, prepare};
use crate::workspace::root;

/// Runs both servers until q or Ctrl-C, on `ports` if there are any.
pub fn run(data: Option<PathBuf>, fresh: bool, ports: &[Ports]) -> Result<()> {
    let ports = if ports.is_empty() { &PORTS } else { ports };
    let [on_hub, on_leaf] = *ports else { bail!("two servers have two times three ports") };
    let data = std::path::absolute(data.unwrap_or_else(|| root().join("target/edge")))?;
    let mut kept = "";
    for (name, Ports { nats, mqtt, monitoring }) in [(HUB, on_hub), (LEAF, on_leaf)] {
        let taken = [(nats, "NATS"), (mqtt, "MQTT"), (monitoring, "monitoring")];
        kept = prepare(&data.join(name).join("store"), fresh, &taken)?;
    }
    let mut edge = Edge::start(&Config::default(), |name, options| {
        let (number, ports) = if name == HUB { (0, on_hub) } else { (1, on_leaf) };
        let options = options.ports(ports).folder(data.join(name));
        options.on_line(console::log_of(number, name))
    })?
    .quiet();
    streams::lay_blocking(&edge)?;
    println!("\nhub          nats://localhost:{}", on_hub.nats);
    println!("leaf         nats://localhost:{}", on_leaf.nats);
    println!("MQTT         mqtt://localhost:{}, at the leaf", on_leaf.mqtt);
    let [hub, leaf] = [on_hub, on_leaf].map(|ports| ports.monitoring);
    println!("monitoring   http://localhost:{hub}, http://localhost:{leaf}");
    println!("data         {}, {kept}", data.display());
    println!("Now, in each other terminal, the line of the place where you are:\n");
    println!("    export NATS_URL=nats://localhost:{}    # the hub", on_hub.nats);
    println!(
        "    export NATS_URL=nats://localhost:{} NATS_INBOX_PREFIX={INBOX_PREFIX} \
         MQTT_URL=mqtt://localhost:{}    # the leaf\n",
        on_leaf.nats, on_leaf.mqtt
    );
    println!("{}", console::menu(&edge));
    console::obey(&mut edge)
}
