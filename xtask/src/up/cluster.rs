//! `cargo xtask up --cluster`: three servers in one terminal.

use std::path::PathBuf;

use anstream::println;
use anyhow::Result;
use testkit::{Cluster, Ports};

use super::{console, prepare};
use crate::workspace::root;

/// A server that leaves sends its clients away after 2 s, in place of 10.
const CONFIGURATION: &str = "lame_duck_grace_period: \"2s\"\nlame_duck_duration: \"30s\"\n";

/// Runs the servers until q or Ctrl-C, on `ports` if there are any.
pub fn run(data: Option<PathBuf>, fresh: bool, ports: &[Ports]) -> Result<()> {
    let ports = if ports.is_empty() { &Cluster::PORTS } else { ports };
    let data = std::path::absolute(data.unwrap_or_else(|| root().join("target/cluster")))?;
    let name = |at: usize| format!("n{}", at + 1);
    let mut kept = "";
    for (at, Ports { nats, mqtt, monitoring }) in ports.iter().copied().enumerate() {
        let taken = [(nats, "NATS"), (mqtt, "MQTT"), (monitoring, "monitoring")];
        kept = prepare(&data.join(name(at)).join("store"), fresh, &taken)?;
    }
    let mut cluster = Cluster::with_network(ports.len(), |at, options| {
        let options = options.ports(ports[at]).folder(data.join(name(at))).config(CONFIGURATION);
        options.on_line(console::log_of(at, &name(at)))
    })?;
    for server in &mut cluster.servers {
        server.be_quiet();
    }
    let of = |scheme: &str, port: fn(&Ports) -> u16| {
        let urls = ports.iter().map(|ports| format!("{scheme}://localhost:{}", port(ports)));
        urls.collect::<Vec<_>>().join(",")
    };
    println!("\nNATS         {}", of("nats", |ports| ports.nats));
    println!("MQTT         {}", of("mqtt", |ports| ports.mqtt));
    println!("monitoring   {}", of("http", |ports| ports.monitoring));
    println!("data         {}, {kept}", data.display());
    println!("Now, in each other terminal:\n");
    println!("    export NATS_URL={}\n", of("nats", |ports| ports.nats));
    println!("{}", console::menu(&cluster));
    console::obey(&mut cluster)
}
