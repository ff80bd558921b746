//! `queue-groups`: how a group grows with its workers, and what each way to stop one loses.

use std::io::{Write, stdout};
use std::pin::pin;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::payload::LogEntry;
use futures::{FutureExt, StreamExt};
use hyper::body::Bytes;
use testkit::{Link, Program, Signal};

use crate::Step;
use crate::plot::{Axis, Panel, Plot};
use crate::report::Table;
use crate::stage::{Stage, figure, last_line, terminated};

const SUBJECT: &str = "logs.process";
const QUEUE_GROUP: &str = "log_workers";

/// So many messages for a group of one, two and three workers.
const SHARED: u32 = 500_000;
/// So many where the worker sleeps for each.
const SLOW: u32 = 600;
/// So many messages, in the middle of which a worker stops.
const STOPPED: u32 = 200_000;
/// The time to the workers of the losses, in each direction.
const NETWORKS: [(&str, Duration); 3] = [
    ("loopback", Duration::ZERO),
    ("20 ms each way", Duration::from_millis(20)),
    ("250 ms each way", Duration::from_millis(250)),
];
/// How a worker ends: `log-worker`, killed …
const KILL: &str = "kill -9";
/// … `first-log-worker`, which has no signal handler …
const FIRST: &str = "first version, stopped";
/// … and `log-worker`, told to stop. The other ways are a part of this measurement.
const SERVICE: &str = "log-worker, stopped";
const WAYS: [&str; 5] = [KILL, FIRST, "unsubscribe", DRAIN, SERVICE];
const DRAIN: &str = "drain";

/// Parts of a measurement.
const PUBLISHER: &str = "bare-publisher";
const WORKER: &str = "bare-worker";

/// Growth and losses.
pub const STEPS: &[Step] = &[
    |stage| Ok(vec![publishing(stage)?]),
    |stage| Ok(vec![growth(stage)?]),
    |stage| Ok(vec![slow_growth(stage)?]),
    |stage| Ok(vec![losses(stage, NETWORKS[0])?]),
    |stage| Ok(vec![losses(stage, NETWORKS[1])?]),
    |stage| Ok(vec![losses(stage, NETWORKS[2])?]),
];

/// `log-publisher` beside a loop that publishes the same bytes again and again.
fn publishing(stage: &Stage) -> Result<Table> {
    let server = Stage::server()?;
    let program = stage.program("log-publisher")?;
    let count = (4 * SHARED).to_string();
    let title = format!("Publishing to nobody ({count})");
    let names = ["bare async-nats", "log-publisher"];
    let samples = stage.in_turns(&title, &names, |contender| {
        let line = match contender {
            0 => last_line(&mut stage.part(&server, &[PUBLISHER, &count]))?,
            _ => last_line(server.command(&program).args(["--count", &count]))?,
        };
        Ok(vec![figure(&line, "(", "/s)")?])
    })?;
    Ok(table(&title, "messages/s", &names, &samples))
}

/// Groups of one, two and three.
fn growth(stage: &Stage) -> Result<Table> {
    let title = format!("A queue group grows ({SHARED})");
    let names = ["1 worker", "2 workers", "3 workers", "3 of bare async-nats"];
    let samples = stage.in_turns(&title, &names, |contender| match contender {
        0..3 => group(stage, contender + 1, Worker::Fast, SHARED),
        _ => group(stage, 3, Worker::Bare, SHARED),
    })?;
    Ok(table(&title, "messages/s", &names, &samples))
}

/// The same with workers that spend time on each message, as with a database: what groups are for.
fn slow_growth(stage: &Stage) -> Result<Table> {
    let title = format!("A queue group grows, each message takes 1 ms ({SLOW})");
    let names = ["1 worker", "2 workers", "3 workers"];
    let samples =
        stage.in_turns(&title, &names, |more| group(stage, more + 1, Worker::Slow, SLOW))?;
    Ok(table(&title, "messages/s", &names, &samples))
}

/// What a worker of a group does with a message.
#[derive(Clone, Copy, PartialEq)]
enum Worker {
    /// `log-worker` prints nothing.
    Fast,
    /// `log-worker` spends a millisecond on it.
    Slow,
    /// The bare client library parses it.
    Bare,
}

/// Messages a second of a group of `size` workers; each worker's clock runs from its first message
/// to its last.
fn group(stage: &Stage, size: usize, kind: Worker, messages: u32) -> Result<Vec<f64>> {
    let server = Stage::server()?;
    let mut workers = Vec::new();
    for _ in 0..size {
        let mut command = match kind {
            Worker::Bare => stage.part(&server, &[WORKER, DRAIN]),
            _ => server.command(stage.program("log-worker")?),
        };
        match kind {
            Worker::Fast => command.arg("--quiet"),
            Worker::Slow => command.args(["--quiet", "--work", "1ms"]),
            Worker::Bare => &mut command,
        };
        workers.push(start(&mut command)?);
    }
    server.wait_for_subscriptions(SUBJECT, size)?;
    let mut publisher = server.command(stage.program("log-publisher")?);
    last_line(publisher.args(["--count", &messages.to_string()]))?;
    server.monitor_until("/varz", |varz| varz["out_msgs"].as_u64() >= Some(messages.into()))?;
    Ok(vec![together(&mut workers, (kind != Worker::Bare).then_some(messages))?])
}

/// Messages a second over the number of workers.
///
/// # Errors
///
/// If a program fails.
pub fn plot_growth(stage: &Stage) -> Result<Plot> {
    let title = "A queue group with 1 to 8 workers";
    let mut panels = Vec::new();
    for (label, kind) in
        [("messages/s, 1 ms of work for each", Worker::Slow), ("messages/s, no work", Worker::Fast)]
    {
        let lines = stage.sweep(title, &["log-worker"], &[1, 2, 3, 4, 5, 6, 7, 8], |_, size| {
            let messages = if kind == Worker::Slow { SLOW * size } else { SHARED };
            group(stage, usize::try_from(size)?, kind, messages)
        })?;
        panels.push(Panel {
            x: Axis::linear("workers"),
            y: Axis::linear(label),
            lines: lines.into_iter().flatten().collect(),
        });
    }
    Ok(Plot { title: title.into(), panels })
}

/// Messages that a stop loses, over the distance of the workers.
///
/// # Errors
///
/// If a program fails.
pub fn plot_losses(stage: &Stage) -> Result<Plot> {
    let title = "One of three workers ends in the middle of 200,000 messages";
    let lines = stage.sweep(title, &WAYS, &[0, 20, 50, 100, 250], |way, milliseconds| {
        lost(stage, way, Duration::from_millis(milliseconds.into()))
    })?;
    let panel = Panel {
        x: Axis::linear("time from nats-server to the workers, ms each way"),
        y: Axis::linear("messages lost"),
        lines: lines.into_iter().flatten().collect(),
    };
    Ok(Plot { title: title.into(), panels: vec![panel] })
}

/// Stops workers: what they handled a second, all of them, while the slowest one worked. Workers of
/// ours must have handled all `messages`.
fn together(workers: &mut [Program], messages: Option<u32>) -> Result<f64> {
    let (mut handled, mut slowest) = (0.0, 0.0_f64);
    for worker in workers {
        let (count, seconds) = stop(worker)?;
        handled += count;
        slowest = slowest.max(seconds);
    }
    let missing = messages.map_or(0.0, |messages| f64::from(messages) - handled);
    ensure!(missing < 0.5, "{missing} of {messages:?} messages were not handled");
    Ok(handled / slowest)
}

/// How many messages are lost over a network.
fn losses(stage: &Stage, (network, delay): (&str, Duration)) -> Result<Table> {
    let title = format!("One of three workers ends, {network}: lost of {STOPPED}");
    let samples = stage.in_turns(&title, &WAYS, |way| lost(stage, way, delay))?;
    Ok(table(&title, "lost", &WAYS, &samples))
}

/// One of three workers ends in the middle of the work: how many messages no worker handled. The
/// others are `log-worker`s, which lose none when they are stopped.
fn lost(stage: &Stage, way: usize, delay: Duration) -> Result<Vec<f64>> {
    let server = Stage::server()?;
    let link = Link::to(server.port())?;
    link.delay(delay);
    let start = |mut command: Command| {
        if !delay.is_zero() {
            command.env("NATS_URL", link.url());
        }
        start(&mut command)
    };
    let log_worker = stage.program("log-worker")?;
    let quiet = || {
        let mut command = server.command(&log_worker);
        command.arg("--quiet");
        command
    };
    let mut ending = start(match WAYS[way] {
        KILL => server.command(&log_worker),
        FIRST => server.command(stage.example("first-log-worker")?),
        SERVICE => quiet(),
        way => stage.part(&server, &[WORKER, way]),
    })?;
    let mut staying = [start(quiet())?, start(quiet())?];
    server.wait_for_subscriptions(SUBJECT, 3)?;
    let mut publisher = server.command(stage.program("log-publisher")?);
    publisher.args(["--count", &STOPPED.to_string()]);
    let mut publishing = Program::spawn(&mut publisher)?.quiet();
    server.monitor_until("/varz", |varz| varz["in_msgs"].as_u64() > Some((STOPPED / 4).into()))?;
    let mut handled = match WAYS[way] {
        KILL => printed_until(&mut ending, Signal::KILL)?,
        FIRST => printed_until(&mut ending, Signal::TERM)?,
        _ => stop(&mut ending)?.0,
    };
    publishing.wait()?;
    for worker in &mut staying {
        handled += stop(worker)?.0;
    }
    Ok(vec![f64::from(STOPPED) - handled])
}

/// Ends a worker by a signal that it does not handle: how many messages it has printed.
fn printed_until(worker: &mut Program, signal: Signal) -> Result<f64> {
    worker.signal(signal)?;
    let printed = worker.wait()?.stdout.len();
    // The first line says that it is ready.
    Ok(f64::from(u32::try_from(printed)?) - 1.0)
}

fn table(title: &str, column: &str, names: &[&str], samples: &[Vec<Vec<f64>>]) -> Table {
    let mut table = Table::new(title, &[column]);
    for (name, samples) in names.iter().zip(samples) {
        table.row(name, samples);
    }
    table
}

/// A worker that is ready.
fn start(command: &mut Command) -> Result<Program> {
    let mut worker = Program::spawn(command)?.quiet();
    worker.expect("waiting")?;
    Ok(worker)
}

/// Stops a worker: how many messages it handled, in how many seconds.
fn stop(worker: &mut Program) -> Result<(f64, f64)> {
    let ended = worker.stop()?;
    let last = ended.stdout.last().context("nothing was printed")?;
    Ok((figure(last, ": ", " messages")?, figure(last, " in ", " s (")?))
}

/// The parts of this experiment: the same as its programs, with the bare client library.
///
/// # Errors
///
/// Whatever fails.
pub async fn part(args: Vec<String>) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [PUBLISHER, count] => publisher(count.parse()?).await,
        [WORKER, way] => worker(way).await,
        _ => bail!("no such part: {args:?}"),
    }
}

async fn publisher(count: u64) -> Result<()> {
    let client = async_nats::connect(std::env::var("NATS_URL")?).await?;
    let start = Instant::now();
    let payload =
        Bytes::from_static(br#"{"id":1234567,"level":"INFO","message":"user logged in"}"#);
    for _ in 0..count {
        client.publish(SUBJECT, payload.clone()).await?;
    }
    client.flush().await?;
    let summary = common::summary(count, "messages", start.elapsed());
    Ok(writeln!(stdout(), "{summary}")?)
}

async fn worker(way: &str) -> Result<()> {
    let client = async_nats::connect(std::env::var("NATS_URL")?).await?;
    let mut logs = client.queue_subscribe(SUBJECT, QUEUE_GROUP.into()).await?;
    client.flush().await?;
    writeln!(stdout(), "waiting")?;
    let mut terminated = pin!(terminated().fuse());
    let mut handled = 0;
    let (mut first, mut elapsed) = (None, Duration::ZERO);
    loop {
        let log = tokio::select! {
            log = logs.next() => log,
            result = &mut terminated => {
                result?;
                match way {
                    DRAIN => logs.drain().await?,
                    _ => logs.unsubscribe().await?,
                }
                continue;
            }
        };
        let Some(log) = log else { break };
        let first = *first.get_or_insert_with(Instant::now);
        serde_json::from_slice::<LogEntry>(&log.payload)?;
        handled += 1;
        elapsed = first.elapsed();
    }
    let summary = common::summary(handled, "messages", elapsed);
    Ok(writeln!(stdout(), "bare: {summary}")?)
}
