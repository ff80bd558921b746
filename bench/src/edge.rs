//! `edge`: how late the hub has the readings after a cut, by a durable and by a plain source.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use async_nats::jetstream::Context;
use async_nats::jetstream::stream;
use edged::streams::{READINGS, jetstream, lay, plain_source};
use edged::{Config, Edge};
use testkit::Program;
use tokio::runtime::Runtime;

use crate::report::Table;
use crate::stage::Stage;

/// Names of the cuts, and their seconds.
const CUTS: [(&str, u64); 3] = [("a cut of 5 s", 5), ("a cut of 15 s", 15), ("a cut of 25 s", 25)];
/// The stream of the hub with the plain source.
const PLAIN: &str = "plain";
/// How long the hub may lack readings.
const TIMEOUT: Duration = Duration::from_secs(100);

/// One table.
pub fn bench(stage: &Stage) -> Result<Vec<Table>> {
    let sensor = stage.program("sensor")?;
    let runtime = Runtime::new()?;
    let title = "From the end of a cut until the hub has all readings, 100 a second";
    let samples = stage.in_turns(title, &CUTS.map(|(name, _)| name), |cut| {
        // The plain source makes its consumers at the leaf node, which takes more rights.
        let config = Config { permissions: String::new(), ..Config::default() };
        let edge = Edge::start(&config, |_, options| options)?.quiet();
        let [hub, leaf] = runtime.block_on(streams(&edge))?;
        let mut command = edge.leaf().command(&sensor);
        let mut sensor = Program::spawn(command.args(["--quiet", "--interval", "10ms"]))?.quiet();
        let has_begun = |stream| runtime.block_on(async { Ok(count(&hub, stream).await? > 20) });
        until(|| has_begun(PLAIN))?;

        edge.line().cut();
        sleep(Duration::from_secs(CUTS[cut].1));
        edge.line().heal();
        let healed = Instant::now();
        ensure!(sensor.stop()?.success(), "a reading was not acknowledged");
        let of = runtime.block_on(count(&leaf, READINGS))?;
        let has_all = |stream| runtime.block_on(async { Ok(count(&hub, stream).await? >= of) });
        let late = |stream| {
            until(|| has_all(stream))?;
            anyhow::Ok(healed.elapsed().as_secs_f64())
        };
        // The durable one is never the later one by more than a moment.
        Ok(vec![late(READINGS)?, late(PLAIN)?])
    })?;
    let mut table = Table::new(title, &["durable source, s", "plain source, s"]);
    for ((name, _), samples) in CUTS.iter().zip(&samples) {
        table.row(name, samples);
    }
    Ok(vec![table])
}

/// The JetStream of hub and leaf node, which has a second stream with the plain source.
async fn streams(edge: &Edge) -> Result<[Context; 2]> {
    lay(edge).await?;
    let [hub, leaf] = [jetstream(&edge.hub().url()).await?, jetstream(&edge.leaf().url()).await?];
    let sources = Some(vec![plain_source()]);
    hub.create_stream(stream::Config { name: PLAIN.into(), sources, ..Default::default() }).await?;
    Ok([hub, leaf])
}

async fn count(jetstream: &Context, stream: &str) -> Result<u64> {
    Ok(jetstream.get_stream(stream).await?.cached_info().state.messages)
}

/// Asks until the answer is yes: nats-server has no event for what a stream has copied.
fn until(is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !is_so()? {
        ensure!(begun.elapsed() < TIMEOUT, "not all readings came");
        sleep(Duration::from_millis(10));
    }
    Ok(())
}
