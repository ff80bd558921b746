//! `jobs`: what submitting a job costs beside a plain publish, how many effects a second workers
//! store, and how the rate of jobs in order depends on the partitions.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Write, stdout};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::stream::{Config, StorageType};
use futures::TryStreamExt;
use serde_json::json;
use testkit::{Program, Server};
use tokio::runtime::Runtime;

use crate::Step;
use crate::report::Table;
use crate::stage::{Stage, figure, last_line};

/// The part of this measurement: it publishes what `job-submit` submits.
pub const PUBLISHER: &str = "plain-publisher";

/// So many e-mails are submitted …
const SUBMITTED: u32 = 50_000;
/// … and so many of them are in flight.
const IN_FLIGHT: usize = 256;

/// Who does how many e-mails.
struct Case {
    name: &'static str,
    workers: usize,
    concurrency: u32,
    count: u32,
}

/// Fewer e-mails for what is slow.
const CASES: [Case; 4] = [
    case("1 worker, one by one", 1, 1, 10_000),
    case("1 worker, 8 at a time", 1, 8, 40_000),
    case("1 worker, 256 at a time", 1, 256, 40_000),
    case("4 workers, 64 at a time each", 4, 64, 40_000),
];

const fn case(name: &'static str, workers: usize, concurrency: u32, count: u32) -> Case {
    Case { name, workers, concurrency, count }
}

/// Invoices with so many keys, each in a partition of its own.
const KEYS: [(&str, usize); 5] =
    [("1 key", 1), ("2 keys", 2), ("4 keys", 4), ("8 keys", 8), ("32 keys", PARTITIONS)];
/// The stream has so many.
const PARTITIONS: usize = 32;
/// Among so many keys there is one for each partition.
const CANDIDATES: u32 = 512;
/// So many invoices for each key.
const INVOICES: u32 = 400;
/// The time that an invoice takes.
const WORK: &str = "5ms";

/// How often the server is asked whether all jobs are done: seldom, as that costs it time.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// Time for all of them.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Submitting, effects, order.
pub const STEPS: &[Step] = &[
    |stage| Ok(vec![submitting(stage)?]),
    |stage| Ok(vec![effects(stage)?]),
    |stage| Ok(vec![ordered(stage)?]),
];

/// `job-submit` beside a loop that publishes the same jobs into a stream that only stores them.
fn submitting(stage: &Stage) -> Result<Table> {
    let submit = stage.program("job-submit")?;
    let (count, in_flight) = (SUBMITTED.to_string(), IN_FLIGHT.to_string());
    let title = format!("E-mails submitted, {in_flight} in flight ({count})");
    let names = ["plain publish, bare async-nats", "job-submit"];
    let samples = stage.in_turns(&title, &names, |contender| {
        let server = Server::start()?.quiet();
        let line = match contender {
            0 => last_line(&mut stage.part(&server, &[PUBLISHER, &count, &in_flight]))?,
            _ => last_line(server.command(&submit).args([
                "email",
                "--quiet",
                "--count",
                &count,
                "--in-flight",
                &in_flight,
            ]))?,
        };
        Ok(vec![figure(&line, "(", "/s)")?])
    })?;
    Ok(table(&title, &["submitted/s"], &names, &samples))
}

/// E-mails, which have no order. They are in the stream before the workers start.
fn effects(stage: &Stage) -> Result<Table> {
    let submit = stage.program("job-submit")?;
    let worker = stage.program("job-worker")?;
    let names = CASES.map(|case| case.name);
    let title = "E-mails done, each with one effect in the database";
    let samples = stage.in_turns(title, &names, |at| {
        let case = &CASES[at];
        let server = Server::start()?.quiet();
        let count = case.count.to_string();
        last_line(server.command(&submit).args(["email", "--quiet", "--count", &count]))?;
        let worker = || {
            let mut command = server.command(&worker);
            command.args(["--kinds", "email", "--concurrency", &case.concurrency.to_string()]);
            command
        };
        Ok(vec![together(&server, case.workers, worker, case.count)?])
    })?;
    Ok(table(title, &["effects/s"], &names, &samples))
}

/// Invoices: of each partition one is done at a time.
fn ordered(stage: &Stage) -> Result<Table> {
    let submit = stage.program("job-submit")?;
    let worker = stage.program("job-worker")?;
    let keys = keys(&submit)?;
    let names = KEYS.map(|(name, _)| name);
    let title =
        format!("Invoices in order, {WORK} each; {INVOICES} a key, a partition for each key");
    let samples = stage.in_turns(&title, &names, |at| {
        let (_, used) = KEYS[at];
        let server = Server::start()?.quiet();
        for key in &keys[..used] {
            let mut command = server.command(&submit);
            command.args(["invoice", "--quiet", "--key", key, "--count", &INVOICES.to_string()]);
            last_line(&mut command)?;
        }
        let worker = || {
            let mut command = server.command(&worker);
            command.args(["--kinds", "invoice", "--concurrency", "64", "--work", WORK]);
            command
        };
        let used = u32::try_from(used)?;
        let rate = together(&server, 1, worker, used * INVOICES)?;
        Ok(vec![rate, rate / f64::from(used)])
    })?;
    Ok(table(&title, &["jobs/s", "each key"], &names, &samples))
}

/// Starts workers that share a database, and stops them when the `count` jobs in the stream are
/// done: what they did a second, all of them, while the slowest one worked.
fn together(
    server: &Server,
    workers: usize,
    command: impl Fn() -> Command,
    count: u32,
) -> Result<f64> {
    let database = server.folder().join("jobs.db");
    // A worker has a summary only if it has a limit. None reaches this one.
    let limit = (count + 1).to_string();
    let mut running = Vec::new();
    for _ in 0..workers {
        let mut command = command();
        command.args(["--quiet", "--limit", &limit, "--db"]).arg(&database);
        let mut worker = Program::spawn(&mut command)?.quiet();
        worker.expect("waiting")?;
        running.push(worker);
    }
    // A job that is done is deleted.
    let deadline = Instant::now() + TIMEOUT;
    while server.monitor("/jsz")?["messages"] != 0 {
        ensure!(Instant::now() < deadline, "the jobs are not done");
        thread::sleep(ASK_EVERY);
    }
    let (mut done, mut slowest) = (0, 0.0_f64);
    for worker in &mut running {
        let ended = worker.stop()?;
        let last = ended.stdout.last().context("nothing was printed")?;
        let (jobs, _) = last.split_once(" jobs in ").context("no summary was printed")?;
        done += jobs.parse::<u32>()?;
        slowest = slowest.max(figure(last, " in ", " s (")?);
    }
    ensure!(done == count, "{done} of {count} jobs were done");
    Ok(f64::from(count) / slowest)
}

/// A key for each partition. Which one a key belongs to says the subject under which nats-server
/// stores a job: `jobs.new.invoice.<partition>.<key>`.
fn keys(submit: &Path) -> Result<Vec<String>> {
    let server = Server::start()?.quiet();
    // It creates the stream.
    last_line(server.command(submit).arg("email"))?;
    let subjects = Runtime::new()?.block_on(stored_subjects(&server))?;
    let mut keys = BTreeMap::new();
    for subject in &subjects {
        if let [_, _, _, partition, key] = subject.split('.').collect::<Vec<_>>()[..] {
            keys.entry(partition).or_insert(key);
        }
    }
    ensure!(keys.len() == PARTITIONS, "keys for {} of {PARTITIONS} partitions", keys.len());
    Ok(keys.into_values().map(str::to_owned).collect())
}

/// Publishes to the subjects of all candidates, and returns what became of these.
async fn stored_subjects(server: &Server) -> Result<Vec<String>> {
    let jetstream = jetstream::new(async_nats::connect(server.url()).await?);
    let mut acks = Vec::new();
    for number in 1..=CANDIDATES {
        let subject = format!("jobs.new.invoice.customer-{number}");
        acks.push(jetstream.publish(subject, "only its subject counts".into()).await?);
    }
    for ack in acks {
        ack.await?;
    }
    let stream = jetstream.get_stream("jobs").await?;
    let stored = stream.info_with_subjects("jobs.new.invoice.>").await?;
    Ok(stored.map_ok(|(subject, _)| subject).try_collect().await?)
}

fn table(title: &str, columns: &[&str], names: &[&str], samples: &[Vec<Vec<f64>>]) -> Table {
    let mut table = Table::new(title, columns);
    for (name, samples) in names.iter().zip(samples) {
        table.row(name, samples);
    }
    table
}

/// The part of this experiment.
///
/// # Errors
///
/// Whatever fails.
pub async fn part(args: Vec<String>) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [PUBLISHER, count, in_flight] => publisher(count.parse()?, in_flight.parse()?).await,
        _ => bail!("no such part: {args:?}"),
    }
}

/// The twin of `job-submit email`, into a stream without message ids, partitions and schedules.
async fn publisher(count: u64, in_flight: usize) -> Result<()> {
    let client = async_nats::connect(std::env::var("NATS_URL")?).await?;
    let jetstream = jetstream::new(client);
    let config = Config {
        name: "plain".into(),
        subjects: vec!["jobs.new.>".into()],
        storage: StorageType::File,
        ..Config::default()
    };
    jetstream.create_stream(config).await?;
    let start = Instant::now();
    // The oldest in front.
    let mut acks: VecDeque<PublishAckFuture> = VecDeque::new();
    for number in 1..=count {
        if acks.len() == in_flight
            && let Some(oldest) = acks.pop_front()
        {
            oldest.await?;
        }
        let id = format!("0123456789abcdef-{number}");
        let job = json!({"job_id": id, "kind": "email", "args": {}});
        let payload = serde_json::to_vec(&job)?;
        acks.push_back(jetstream.publish(format!("jobs.new.email.{id}"), payload.into()).await?);
    }
    for ack in acks {
        ack.await?;
    }
    let summary = common::summary(count, "jobs", start.elapsed());
    Ok(writeln!(stdout(), "{summary}")?)
}
