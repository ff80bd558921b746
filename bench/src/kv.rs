//! `kv`: a change that is pushed to a watch against one that is found by polling, and what each
//! costs the server.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use async_nats::jetstream::kv::{Config, Store};
use futures::StreamExt;
use hdrhistogram::Histogram;
use testkit::{Program, Server};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::report::Table;
use crate::stage::Stage;

const BUCKET: &str = "configs_playgrnd";
const KEY: &str = "site_maintenance";

/// How many programs follow the switch.
const FOLLOWERS: usize = 50;
/// How long to look at what they cost while nothing changes, and then at how they see changes.
const SPAN: Duration = Duration::from_secs(5);
/// Between two changes, on average.
const CHANGE_EVERY: Duration = Duration::from_millis(97);
const POLL_EVERY: Duration = Duration::from_secs(1);
/// How many changes, one after the other has been seen.
const CHANGES: u32 = 3_000;

/// Who saw which revision, and when.
type Seen = Arc<Mutex<Vec<(u64, Instant)>>>;

/// Both tables.
///
/// # Errors
///
/// Where a program fails or the server does not answer.
pub fn bench(stage: &Stage) -> Result<Vec<Table>> {
    let config_app = stage.program("kv", "config-app")?;
    let runtime = Runtime::new()?;
    let mut tables = Vec::new();

    let names = ["watch, bare async-nats", "config-app, line printed"];
    let title = format!("From put to watch, one by one ({CHANGES})");
    let samples = stage.in_turns(&title, &names, |contender| {
        let server = Server::start()?.quiet();
        let seen = Seen::default();
        let _followers = if contender == 0 {
            Followers::Tasks(vec![runtime.block_on(watch(&server, &seen))?])
        } else {
            Followers::programs(1, &config_app, &server, &seen)?
        };
        runtime.block_on(one_by_one(&server, &seen))
    })?;
    let mut table = Table::new(&title, &["p50 µs", "p99 µs"]);
    for (name, samples) in names.iter().zip(&samples) {
        table.row(name, samples);
    }
    tables.push(table);

    let names = ["watch", "config-app", "poll, 1 s"];
    let title = format!("{FOLLOWERS} followers: changes seen; idle, each per second");
    let samples = stage.in_turns(&title, &names, |contender| {
        let mut server = Server::start()?.quiet();
        runtime.block_on(bucket(&server))?;
        let seen = Seen::default();
        let _followers = match contender {
            0 => Followers::tasks(|| runtime.block_on(watch(&server, &seen)))?,
            1 => Followers::programs(FOLLOWERS, &config_app, &server, &seen)?,
            _ => Followers::tasks(|| runtime.block_on(poll(&server, &seen)))?,
        };
        let idle = idle(&mut server)?;
        let mut figures = runtime.block_on(at_random(&server, &seen))?;
        figures.extend(idle);
        Ok(figures)
    })?;
    let columns = ["p50 ms", "p99 ms", "seen %", "messages", "CPU µs"];
    let mut table = Table::new(&title, &columns);
    for (name, samples) in names.iter().zip(&samples) {
        table.row(name, samples);
    }
    tables.push(table);
    Ok(tables)
}

/// Those who follow, until dropped.
enum Followers {
    Tasks(Vec<JoinHandle<()>>),
    Programs { _running: Vec<Program> },
}

impl Followers {
    fn tasks(start: impl Fn() -> Result<JoinHandle<()>>) -> Result<Self> {
        let tasks = (0..FOLLOWERS).map(|_| start()).collect::<Result<_>>()?;
        Ok(Self::Tasks(tasks))
    }

    fn programs(
        count: usize,
        program: &std::path::Path,
        server: &Server,
        seen: &Seen,
    ) -> Result<Self> {
        let start = |_| {
            let seen = Arc::clone(seen);
            let mut command = server.command(program);
            let mut running = Program::spawn_watched(&mut command, move |line| {
                let revision = line
                    .strip_prefix('#')
                    .and_then(|line| line.split(' ').next());
                if let Some(revision) = revision.and_then(|revision| revision.parse().ok()) {
                    note(&seen, revision);
                }
            })?;
            running.expect("")?;
            Ok(running)
        };
        let running = (0..count).map(start).collect::<Result<_>>()?;
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

fn note(seen: &Seen, revision: u64) {
    let now = Instant::now();
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.push((revision, now));
}

async fn bucket(server: &Server) -> Result<Store> {
    let client = async_nats::connect(server.url()).await?;
    let config = Config {
        bucket: BUCKET.into(),
        history: 64,
        ..Config::default()
    };
    Ok(jetstream::new(client).create_key_value(config).await?)
}

/// As one writes it where nothing fails.
async fn watch(server: &Server, seen: &Seen) -> Result<JoinHandle<()>> {
    let mut entries = bucket(server).await?.watch_with_history(KEY).await?;
    let seen = Arc::clone(seen);
    Ok(tokio::spawn(async move {
        while let Some(Ok(entry)) = entries.next().await {
            note(&seen, entry.revision);
        }
    }))
}

/// Without a watch: asks for the value every second.
async fn poll(server: &Server, seen: &Seen) -> Result<JoinHandle<()>> {
    let bucket = bucket(server).await?;
    let seen = Arc::clone(seen);
    // They do not all ask at the same moment.
    sleep(POLL_EVERY / u32::try_from(FOLLOWERS)?).await;
    Ok(tokio::spawn(async move {
        let mut last = 0;
        let mut ticks = interval(POLL_EVERY);
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

/// Puts a value when the one before has been seen.
async fn one_by_one(server: &Server, seen: &Seen) -> Result<Vec<f64>> {
    let bucket = bucket(server).await?;
    let mut times = Histogram::<u64>::new(3)?;
    for change in 0..CHANGES {
        let value = if change % 2 == 0 { "true" } else { "false" };
        let start = Instant::now();
        let revision = bucket.put(KEY, value.into()).await?;
        let at = loop {
            let last = seen
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .last()
                .copied();
            match last {
                Some((last, at)) if last == revision => break at,
                _ if start.elapsed() > Duration::from_secs(5) => {
                    anyhow::bail!("#{revision} was not seen")
                }
                _ => tokio::task::yield_now().await,
            }
        };
        times.record(u64::try_from((at - start).as_nanos())?)?;
    }
    let microseconds = |quantile| {
        f64::from(u32::try_from(times.value_at_quantile(quantile) / 1000).unwrap_or(u32::MAX))
    };
    Ok(vec![microseconds(0.5), microseconds(0.99)])
}

/// Changes the value for a while; how late each follower sees each change, and how many of them.
async fn at_random(server: &Server, seen: &Seen) -> Result<Vec<f64>> {
    let bucket = bucket(server).await?;
    let start = Instant::now();
    let mut puts = Vec::new();
    while start.elapsed() < SPAN {
        let value = if puts.len() % 2 == 0 { "true" } else { "false" };
        let at = Instant::now();
        puts.push((bucket.put(KEY, value.into()).await?, at));
        sleep(CHANGE_EVERY).await;
    }
    sleep(POLL_EVERY + CHANGE_EVERY).await;
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let mut times = Histogram::<u64>::new(3)?;
    for (revision, at) in &*seen {
        let put = puts.iter().find(|(put, _)| put == revision);
        let (_, start) = put.context("a revision that nobody put")?;
        times.record(u64::try_from((*at - *start).as_micros())?)?;
    }
    ensure!(!seen.is_empty(), "nobody saw anything");
    let milliseconds = |quantile| {
        let microseconds = u32::try_from(times.value_at_quantile(quantile)).unwrap_or(u32::MAX);
        f64::from(microseconds) / 1000.0
    };
    let (seen, all) = (
        u32::try_from(seen.len())?,
        u32::try_from(puts.len() * FOLLOWERS)?,
    );
    let share = 100.0 * f64::from(seen) / f64::from(all);
    Ok(vec![milliseconds(0.5), milliseconds(0.99), share])
}

/// What the server does for each follower in a second in which nothing changes: messages in and
/// out, time on a processor.
fn idle(server: &mut Server) -> Result<Vec<f64>> {
    let messages = |server: &Server| {
        let varz = server.monitor("/varz")?;
        let (received, sent) = (varz["in_msgs"].as_u64(), varz["out_msgs"].as_u64());
        received
            .zip(sent)
            .map(|(received, sent)| received + sent)
            .context("no counts in /varz")
    };
    let before = (messages(server)?, processor_time(server.id()?)?);
    std::thread::sleep(SPAN);
    let after = (messages(server)?, processor_time(server.id()?)?);
    let each = f64::from(u32::try_from(FOLLOWERS)?) * SPAN.as_secs_f64();
    let time = after.1.saturating_sub(before.1);
    Ok(vec![
        f64::from(u32::try_from(after.0 - before.0)?) / each,
        time.as_secs_f64() * 1e6 / each,
    ])
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
