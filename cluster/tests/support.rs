//! Programs of the playground against a cluster.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_nats::ServerAddr;
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{self, Context as JetStream};
use testkit::{Cluster, Ended, Program, Server};
use tokio::time::sleep;

/// A program that may connect to each server of the cluster.
pub fn command(cluster: &Cluster, program: &str, args: &str) -> Command {
    let mut command = cluster.servers[0].command(testkit::program(program));
    command.env("NATS_URL", cluster.url()).args(args.split_whitespace());
    command
}

/// A program that knows one server only.
pub fn command_at(server: &Server, program: &str, args: &str) -> Command {
    let mut command = server.command(testkit::program(program));
    command.args(args.split_whitespace());
    command
}

/// Starts a program, and waits until it prints `ready`.
pub fn start(mut command: Command, ready: &str) -> Result<Program> {
    let mut program = Program::spawn(&mut command)?;
    program.expect(ready)?;
    Ok(program)
}

/// Runs a program to its end.
pub fn run(mut command: Command) -> Result<Ended> {
    Program::spawn(&mut command)?.wait()
}

/// Runs a program that succeeds, and returns its lines.
pub fn succeeds(command: Command) -> Result<Vec<String>> {
    let ended = run(command)?;
    ensure!(ended.success(), "{ended:?}");
    Ok(ended.stdout)
}

/// Runs a program that fails, and returns its last line on stderr.
pub fn fails(command: Command) -> Result<String> {
    let mut ended = run(command)?;
    ensure!(ended.code() == Some(1), "{ended:?}");
    ended.stderr.pop().context("it does not say why")
}

/// A client of the test.
pub async fn client(urls: &str) -> Result<JetStream> {
    let servers = urls.split(',').map(str::parse).collect::<Result<Vec<ServerAddr>, _>>()?;
    Ok(jetstream::new(async_nats::connect(servers).await?))
}

/// Gives a stream so many copies, as an operator does, and waits until they are complete: killed
/// before, a server takes the only complete copy with it.
pub async fn set_replicas(jetstream: &JetStream, stream: &str, count: usize) -> Result<()> {
    let mut stream = jetstream.get_stream(stream).await?;
    let config = Config { num_replicas: count, ..stream.cached_info().config.clone() };
    // Refused until each server that is to have a copy has told the others of itself.
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = jetstream.update_stream(config.clone()).await {
        ensure!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(100)).await;
    }
    loop {
        let cluster = stream.info().await?.cluster.clone();
        let copies = cluster.map(|cluster| cluster.replicas).unwrap_or_default();
        if copies.len() + 1 == count && copies.iter().all(|copy| copy.current) {
            return Ok(());
        }
    }
}
