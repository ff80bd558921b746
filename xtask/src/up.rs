//! `cargo xtask up`: a server in the foreground.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anstream::println;
use anyhow::{Context, Result, bail, ensure};

use crate::workspace::root;

/// As in `nats-server.conf`.
const PORTS: [(u16, &str); 3] = [(4222, "NATS"), (1883, "MQTT"), (8222, "monitoring")];

/// Becomes the server: what ends it (Ctrl-C, SIGTERM) reaches it with nobody in between.
pub fn run(data: Option<PathBuf>) -> Result<()> {
    let server = testkit::nats_server()?;
    // The server itself would say so as well, in its log, and with no word on what to do.
    for (port, what) in PORTS {
        ensure!(
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(),
            "port {port} ({what}) is taken: perhaps a server runs already; use it, or stop it first"
        );
    }
    let data = data.unwrap_or_else(|| root().join("target/nats-server"));
    fs::create_dir_all(&data).with_context(|| format!("cannot keep data in {}", data.display()))?;
    println!("NATS         nats://localhost:4222");
    println!("MQTT         mqtt://localhost:1883");
    println!("monitoring   http://localhost:8222");
    println!("data         {}", data.display());
    println!("Ctrl-C ends it\n");
    let mut server = Command::new(server);
    server.arg("--config").arg(root().join("nats-server.conf")).arg("--store_dir").arg(data);
    bail!("cannot run nats-server: {}", server.exec())
}
