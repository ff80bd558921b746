//! `jetstream`: what waiting for each acknowledgement costs, and what keeping orders on disk.

use anyhow::Result;
use testkit::Server;

use crate::report::Table;
use crate::stage::{Stage, figure, last_line};

/// Where the stream is, how many orders are on their way at a time, and how many there are.
const PUBLISHERS: [(&str, [&str; 6]); 4] = [
    ("memory, one by one", args("memory", "1", "10000")),
    ("memory, 256 in flight", args("memory", "256", "200000")),
    ("file, one by one", args("file", "1", "10000")),
    ("file, 256 in flight", args("file", "256", "200000")),
];

const fn args<'a>(storage: &'a str, in_flight: &'a str, count: &'a str) -> [&'a str; 6] {
    [
        "--storage",
        storage,
        "--in-flight",
        in_flight,
        "--count",
        count,
    ]
}

/// Publishing, then taking what was published; each in turn, each on a server of its own.
///
/// # Errors
///
/// Where a program fails.
pub fn bench(stage: &Stage) -> Result<Vec<Table>> {
    let publisher = stage.program("jetstream", "order-publisher")?;
    let consumer = stage.program("jetstream", "order-consumer")?;
    let names = PUBLISHERS.map(|(name, _)| name);
    let title = "Orders stored, then taken";
    let samples = stage.in_turns(title, &names, |at| {
        let server = Server::start()?.quiet();
        let (_, args) = PUBLISHERS[at];
        let mut publish = server.command(&publisher);
        let stored = last_line(publish.arg("--quiet").args(args))?;
        let mut consume = server.command(&consumer);
        let taken = last_line(consume.args(["--quiet", "--limit", args[5]]))?;
        Ok(vec![
            figure(&stored, "(", "/s)")?,
            figure(&taken, "(", "/s)")?,
        ])
    })?;
    let mut table = Table::new(title, &["stored/s", "taken/s"]);
    for (name, samples) in names.iter().zip(&samples) {
        table.row(name, samples);
    }
    Ok(vec![table])
}
