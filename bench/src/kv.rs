//! `kv`: a change that a watch is sent against one that polling finds, and what each costs
//! nats-server.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use async_nats::jetstream::kv::{Config, Store};
use hdrhistogram::Histogram;
use testkit::{Program, Server};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::plot::{Axis, Line, Panel, Plot, Point};
use crate::report::Table;
use crate::stage::Stage;

const BUCKET: &str = "configs_playgrnd";
const KEY: &str = "site_maintenance";

/// How many programs follow the switch.
const FOLLOWERS: usize = 50;
/// How long to measure the cost while nothing changes: a watch has a heartbeat every 5 s.
const IDLE: Duration = Duration::from_secs(5);
/// No multiple of the polls' interval, so that changes come at any moment between two polls.
const CHANGE_EVERY: Duration = Duration::from_millis(1130);
const CHANGES: u32 = 3;
/// How many changes, each after the one before was seen.
const ONE_BY_ONE: u32 = 3_000;
/// A follower that has not seen a change by then has missed it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Reports which revision was seen, and when.
type Seen = UnboundedSender<(u64, Instant)>;

/// Both tables.
///
/// # Errors
///
/// If a program fails or nats-server does not answer.
pub fn bench(stage: &Stage) -> Result<Vec<Table>> {
    let config_app = stage.program("config-app")?;
    let first_config_app = stage.example("first-config-app")?;
    let runtime = Runtime::new()?;
    let mut tables = Vec::new();

    let names = ["first-config-app", "config-app"];
    let title = format!("From put to line printed by a watch, one by one ({ONE_BY_ONE})");
    let samples = stage.in_turns(&title, &names, |contender| {
        let server = Server::start()?.quiet();
        runtime.block_on(first_value(&server))?;
        let (seen, mut changes) = unbounded_channel();
        let program = [&first_config_app, &config_app][contender];
        let _follower = follower(&mut server.command(program), &seen)?;
        runtime.block_on(all_at_first_value(1, &mut changes))?;
        runtime.block_on(one_by_one(&server, changes))
    })?;
    let mut table = Table::new(&title, &["p50 µs", "p99 µs"]);
    for (name, samples) in names.iter().zip(&samples) {
        table.row(name, samples);
    }
    tables.push(table);

    let names = ["first-config-app", "config-app", "poll, 1 s"];
    let title = format!("{FOLLOWERS} followers: from put to notice; while idle, each in a second");
    let samples = stage.in_turns(&title, &names, |contender| match contender {
        0 => follow(&runtime, By::Watch(&first_config_app)),
        1 => follow(&runtime, By::Watch(&config_app)),
        _ => follow(&runtime, By::Polls(Duration::from_secs(1))),
    })?;
    let columns = ["p50 ms", "p99 ms", "messages", "server CPU µs"];
    let mut table = Table::new(&title, &columns);
    for (name, samples) in names.iter().zip(&samples) {
        table.row(name, samples);
    }
    tables.push(table);
    Ok(tables)
}

/// How late a change is noticed, over the messages that a follower costs while nothing changes.
///
/// # Errors
///
/// If a program fails or nats-server does not answer.
pub fn plot(stage: &Stage) -> Result<Plot> {
    const POLL: &str = "asking again and again, every 10 ms to 3 s";
    let config_app = stage.program("config-app")?;
    let first_config_app = stage.example("first-config-app")?;
    let runtime = Runtime::new()?;
    let mut ways: Vec<(&str, By)> = [3000, 1000, 300, 100, 30, 10]
        .map(|milliseconds| (POLL, By::Polls(Duration::from_millis(milliseconds))))
        .into();
    ways.push(("a watch: first-config-app", By::Watch(&first_config_app)));
    ways.push(("a watch: config-app", By::Watch(&config_app)));
    let title = format!("{FOLLOWERS} programs follow a switch");
    let names: Vec<&str> = ways.iter().map(|(name, _)| *name).collect();
    let samples = stage.in_turns(&title, &names, |at| follow(&runtime, ways[at].1))?;
    let mut lines: Vec<Line> = Vec::new();
    for (name, runs) in names.iter().zip(&samples) {
        let column = |at: usize| runs.iter().map(|figures| figures[at]).collect();
        let [delays, messages] = [0, 2].map(column);
        let point = Point::new(Point::new(0.0, messages).y, delays);
        match lines.last_mut() {
            Some(line) if line.name == *name => line.points.push(point),
            _ => lines.push(Line { name: (*name).into(), points: vec![point] }),
        }
    }
    let panel = Panel {
        x: Axis::logarithmic("messages a second for each program, while nothing changes"),
        y: Axis::logarithmic("ms until a change is noticed (p50)"),
        lines,
    };
    Ok(Plot { title, panels: vec![panel] })
}

/// How a program follows the switch.
#[derive(Clone, Copy)]
enum By<'a> {
    /// The program at this path watches the bucket.
    Watch(&'a Path),
    /// A task asks for the value at this interval.
    Polls(Duration),
}

/// How late [`FOLLOWERS`] notice a change (ms, p50 and p99), and what each costs nats-server in a
/// second while nothing changes: messages, and processor time (µs).
fn follow(runtime: &Runtime, by: By) -> Result<Vec<f64>> {
    let mut server = Server::start()?.quiet();
    runtime.block_on(first_value(&server))?;
    let (seen, mut changes) = unbounded_channel();
    let _followers = match by {
        By::Watch(path) => Followers::programs(|| follower(&mut server.command(path), &seen))?,
        By::Polls(every) => Followers::tasks(|| runtime.block_on(poll(&server, every, &seen)))?,
    };
    runtime.block_on(all_at_first_value(FOLLOWERS, &mut changes))?;
    let idle = idle(&mut server)?;
    // Longer than the interval of the polls, so that each change is seen before the next one.
    let pause = match by {
        By::Polls(every) if every > Duration::from_secs(1) => every.mul_f64(1.13),
        _ => CHANGE_EVERY,
    };
    let mut figures = runtime.block_on(now_and_then(&server, pause, changes))?;
    figures.extend(idle);
    Ok(figures)
}

/// Everything that follows the switch, until it is dropped.
enum Followers {
    Tasks(Vec<JoinHandle<()>>),
    Programs { _running: Vec<Program> },
}

impl Followers {
    fn tasks(start: impl Fn() -> Result<JoinHandle<()>>) -> Result<Self> {
        let tasks = (0..FOLLOWERS).map(|_| start()).collect::<Result<_>>()?;
        Ok(Self::Tasks(tasks))
    }

    fn programs(start: impl Fn() -> Result<Program>) -> Result<Self> {
        let running = (0..FOLLOWERS).map(|_| start()).collect::<Result<_>>()?;
        Ok(Self::Programs { _running: running })
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        if let Self::Tasks(tasks) = self {
            tasks.iter().for_each(JoinHandle::abort);
        }
    }
}

/// A program that prints `#` and the revision of each change.
fn follower(command: &mut Command, seen: &Seen) -> Result<Program> {
    let seen = seen.clone();
    Program::spawn_watched(command, move |line| {
        let revision = line.strip_prefix('#').and_then(|line| line.split(' ').next());
        if let Some(revision) = revision.and_then(|revision| revision.parse().ok()) {
            note(&seen, revision);
        }
    })
}

fn note(seen: &Seen, revision: u64) {
    // Fails only when the measurement is over.
    let _ = seen.send((revision, Instant::now()));
}

async fn bucket(server: &Server) -> Result<Store> {
    let client = async_nats::connect(server.url()).await?;
    let config = Config { bucket: BUCKET.into(), history: 64, ..Config::default() };
    Ok(jetstream::new(client).create_key_value(config).await?)
}

/// Without a watch: asks for the value again and again.
async fn poll(server: &Server, every: Duration, seen: &Seen) -> Result<JoinHandle<()>> {
    let bucket = bucket(server).await?;
    let seen = seen.clone();
    // They do not all poll at the same moment.
    sleep(every / u32::try_from(FOLLOWERS)?).await;
    Ok(tokio::spawn(async move {
        let mut last = 0;
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            match bucket.entry(KEY).await {
                Ok(Some(entry)) if entry.revision != last => {
                    last = entry.revision;
                    note(&seen, last);
                }
                _ => {}
            }
        }
    }))
}

/// Creates the bucket, with revision 1 in it.
async fn first_value(server: &Server) -> Result<()> {
    bucket(server).await?.put(KEY, "false".into()).await?;
    Ok(())
}

/// Waits until all followers have seen revision 1.
async fn all_at_first_value(
    followers: usize,
    changes: &mut UnboundedReceiver<(u64, Instant)>,
) -> Result<()> {
    for _ in 0..followers {
        let seen = timeout(TIMEOUT, changes.recv()).await;
        let (revision, _) = seen.ok().flatten().context("a follower did not start")?;
        ensure!(revision == 1, "#{revision} out of order");
    }
    Ok(())
}

/// Puts a value when the one before has been seen.
async fn one_by_one(
    server: &Server,
    mut changes: UnboundedReceiver<(u64, Instant)>,
) -> Result<Vec<f64>> {
    let bucket = bucket(server).await?;
    let mut times = Histogram::<u64>::new(3)?;
    for change in 0..ONE_BY_ONE {
        let start = put(&bucket, change).await?;
        let seen = timeout(TIMEOUT, changes.recv()).await;
        let (revision, at) = seen.ok().flatten().context("a change was not seen")?;
        ensure!(revision == u64::from(change) + 2, "#{revision} out of order");
        times.record(u64::try_from((at - start).as_nanos())?)?;
    }
    Ok([0.5, 0.99].map(|share| quantile(&times, share) / 1e3).into())
}

/// Changes the value now and then; how late each follower sees each change.
async fn now_and_then(
    server: &Server,
    pause: Duration,
    mut changes: UnboundedReceiver<(u64, Instant)>,
) -> Result<Vec<f64>> {
    let bucket = bucket(server).await?;
    let mut times = Histogram::<u64>::new(3)?;
    for change in 0..CHANGES {
        let start = put(&bucket, change).await?;
        for _ in 0..FOLLOWERS {
            let seen = timeout(TIMEOUT, changes.recv()).await;
            let (revision, at) = seen.ok().flatten().context("a change was not seen")?;
            ensure!(revision == u64::from(change) + 2, "#{revision} out of order");
            times.record(u64::try_from((at - start).as_nanos())?)?;
        }
        sleep(pause.saturating_sub(start.elapsed())).await;
    }
    Ok([0.5, 0.99].map(|share| quantile(&times, share) / 1e6).into())
}

/// Turns the switch, and returns when that began.
async fn put(bucket: &Store, change: u32) -> Result<Instant> {
    let value = if change.is_multiple_of(2) { "true" } else { "false" };
    let start = Instant::now();
    bucket.put(KEY, value.into()).await?;
    Ok(start)
}

/// Nanoseconds.
fn quantile(times: &Histogram<u64>, share: f64) -> f64 {
    let nanoseconds = times.value_at_quantile(share);
    Duration::from_nanos(nanoseconds).as_secs_f64() * 1e9
}

/// What nats-server does for each follower in a second in which nothing changes: messages in and
/// out, processor time.
fn idle(server: &mut Server) -> Result<Vec<f64>> {
    let messages = |server: &Server| {
        let varz = server.monitor("/varz")?;
        let (received, sent) = (varz["in_msgs"].as_u64(), varz["out_msgs"].as_u64());
        received.zip(sent).map(|(received, sent)| received + sent).context("no counts in /varz")
    };
    let before = (messages(server)?, processor_time(server.id()?)?);
    std::thread::sleep(IDLE);
    let after = (messages(server)?, processor_time(server.id()?)?);
    let each = f64::from(u32::try_from(FOLLOWERS)?) * IDLE.as_secs_f64();
    let time = after.1.saturating_sub(before.1);
    Ok(vec![f64::from(u32::try_from(after.0 - before.0)?) / each, time.as_secs_f64() * 1e6 / each])
}

/// The time that all threads of a process have spent on a processor.
fn processor_time(process: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let stat = fs::read_to_string(thread?.path().join("schedstat"))?;
        let running = stat.split(' ').next().context("empty schedstat")?;
        nanoseconds += running.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}
