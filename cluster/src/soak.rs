//! Clients of a cluster whose servers fail, and a comparison of what they saw with what is there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result};
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::kv::{self, Store, UpdateErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::jetstream::{Context, ContextBuilder};
use async_nats::{ConnectOptions, ServerAddr};
use futures::TryStreamExt;
use futures::future::join_all;
use testkit::Cluster;
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::faults::Faults;
use crate::history::{Acknowledged, Found, From, History, Increment, Outcome, Read, Report};

/// The stream, its subject, the bucket and its key.
const STREAM: &str = "soak";
const SUBJECT: &str = "soak.message";
const BUCKET: &str = "soak";
const KEY: &str = "counter";
/// The stream of the bucket.
const BUCKET_STREAM: &str = "KV_soak";

const SERVERS: usize = 3;
const PUBLISHERS: usize = 4;
const COUNTERS: usize = 3;
/// Pause of a client between two requests, and after one that failed.
const PAUSE: Duration = Duration::from_millis(5);
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);
/// Time that nats-server has to answer a client.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Time that the servers have, when all run again, to agree.
const RECOVERY: Duration = Duration::from_secs(60);
/// A client notices that its server is silent after about three of these.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// What is tried, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides which faults there are.
    pub seed: u64,
    /// Faults begin until this time is over.
    pub duration: Duration,
    /// Copies of the stream and the bucket.
    pub replicas: usize,
    /// Whether the copies are on disk or in memory.
    pub storage: StorageType,
}

impl Default for Plan {
    /// Ten minutes, three copies on disk.
    fn default() -> Self {
        let duration = Duration::from_secs(600);
        Self { seed: 1, duration, replicas: SERVERS, storage: StorageType::File }
    }
}

/// Starts three servers and clients, lets servers fail, and compares what the clients saw with what
/// is there when all servers run again. `tell` is called with a line for each fault.
///
/// # Errors
///
/// If a server does not start, or the cluster is not healthy again.
pub fn run(plan: &Plan, mut tell: impl FnMut(&str)) -> Result<Report> {
    let mut cluster = Cluster::with_network(SERVERS, |_, options| options)?;
    for server in &mut cluster.servers {
        server.be_quiet();
    }
    let runtime = Runtime::new()?;
    let history = Shared::default();
    let stop = CancellationToken::new();
    let clients = runtime.block_on(start(plan, &cluster, &history, &stop))?;

    let mut faults = Faults::new(plan.seed);
    let begin = Instant::now();
    while begin.elapsed() < plan.duration {
        let fault = faults.next(SERVERS);
        tell(&format!("{:>5.1} s  {fault}", begin.elapsed().as_secs_f64()));
        fault.happen(&mut cluster)?;
    }
    cluster.wait_until_healthy()?;
    stop.cancel();
    runtime.block_on(join_all(clients));
    let found = runtime.block_on(find(&cluster))?;
    let history = history.lock();
    Ok(Report::new(&history, &found))
}

/// What all clients write down.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<History>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, History> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client that reconnects at once, to any of these servers, and waits so long for an answer.
async fn client(urls: &str, patience: Duration) -> Result<Context> {
    let servers = urls.split(',').map(str::parse).collect::<Result<Vec<ServerAddr>, _>>()?;
    let options = ConnectOptions::new()
        .retry_on_initial_connect()
        .reconnect_delay_callback(|_| PAUSE_AFTER_FAILURE)
        .ping_interval(PING_INTERVAL);
    let client = options.connect(servers).await?;
    Ok(ContextBuilder::new().timeout(patience).ack_timeout(patience).build(client))
}

type Task = tokio::task::JoinHandle<Result<()>>;

/// Makes the stream and the bucket, and starts the clients.
async fn start(
    plan: &Plan,
    cluster: &Cluster,
    history: &Shared,
    stop: &CancellationToken,
) -> Result<Vec<Task>> {
    let jetstream = client(&cluster.url(), RECOVERY).await?;
    let stream = Config {
        name: STREAM.into(),
        subjects: vec![SUBJECT.into()],
        num_replicas: plan.replicas,
        storage: plan.storage,
        ..Config::default()
    };
    answered(async || jetstream.create_stream(stream.clone()).await).await?;
    let bucket = kv::Config {
        bucket: BUCKET.into(),
        history: 1,
        num_replicas: plan.replicas,
        storage: plan.storage,
        ..kv::Config::default()
    };
    let bucket = answered(async || jetstream.create_key_value(bucket.clone()).await).await?;
    bucket.put(KEY, "0".into()).await?;

    let mut tasks = Vec::new();
    for number in 0..PUBLISHERS {
        let jetstream = client(&cluster.url(), TIMEOUT).await?;
        tasks.push(tokio::spawn(publish(jetstream, number, history.clone(), stop.clone())));
    }
    for _ in 0..COUNTERS {
        let store = client(&cluster.url(), RECOVERY).await?.get_key_value(BUCKET).await?;
        tasks.push(tokio::spawn(count(store, history.clone(), stop.clone())));
    }
    // Each reads from one server, which may be cut off.
    for server in &cluster.servers {
        let store = client(&server.url(), RECOVERY).await?.get_key_value(BUCKET).await?;
        tasks.push(tokio::spawn(read(store, history.clone(), stop.clone())));
    }
    Ok(tasks)
}

/// Publishes one message after the other, each until it is acknowledged.
async fn publish(
    jetstream: Context,
    publisher: usize,
    history: Shared,
    stop: CancellationToken,
) -> Result<()> {
    for number in 1.. {
        let id = format!("{publisher}-{number}");
        while !stop.is_cancelled() {
            let message = PublishMessage::build().message_id(&id).payload("soak".into());
            let sent = jetstream.send_publish(SUBJECT, message).await;
            let acknowledged = match sent {
                Ok(acknowledgement) => acknowledgement.await.ok(),
                Err(_) => None,
            };
            if let Some(acknowledgement) = acknowledged {
                let sequence = acknowledgement.sequence;
                let stored = Acknowledged { id, sequence, at: Instant::now() };
                history.lock().acknowledged.push(stored);
                break;
            }
            sleep(PAUSE_AFTER_FAILURE).await;
        }
        if stop.is_cancelled() {
            break;
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Adds 1 to the counter again and again: reads it, and replaces that revision only.
async fn count(store: Store, history: Shared, stop: CancellationToken) -> Result<()> {
    while !stop.is_cancelled() {
        let began = Instant::now();
        let Some((value, revision)) = current(&store).await else {
            sleep(PAUSE_AFTER_FAILURE).await;
            continue;
        };
        let value = value + 1;
        let update = store.update(KEY, value.to_string().into(), revision);
        let outcome = match timeout(TIMEOUT, update).await {
            Ok(Ok(revision)) => Outcome::Written(revision),
            Ok(Err(error)) if error.kind() == UpdateErrorKind::WrongLastRevision => {
                Outcome::Refused
            }
            Ok(Err(_)) | Err(_) => Outcome::Unknown,
        };
        let increment = Increment { value, began, ended: Instant::now(), outcome };
        history.lock().increments.push(increment);
        sleep(if outcome == Outcome::Unknown { PAUSE_AFTER_FAILURE } else { PAUSE }).await;
    }
    Ok(())
}

/// The counter's value and its revision; none if it is not there.
async fn counter(store: &Store) -> Result<Option<(u64, u64)>> {
    let Some(entry) = store.entry(KEY).await? else { return Ok(None) };
    Ok(Some((std::str::from_utf8(&entry.value)?.parse()?, entry.revision)))
}

/// As [`counter`]; none, too, if there is no answer in time.
async fn current(store: &Store) -> Option<(u64, u64)> {
    timeout(TIMEOUT, counter(store)).await.ok()?.ok()?
}

/// Reads the counter, from any copy and from the stream's leader in turn.
async fn read(store: Store, history: Shared, stop: CancellationToken) -> Result<()> {
    let subject = format!("{}{KEY}", store.prefix);
    while !stop.is_cancelled() {
        let began = Instant::now();
        if let Some((_, revision)) = current(&store).await {
            history.lock().reads.push(Read { began, revision, from: From::AnyCopy });
        }
        let began = Instant::now();
        let last = store.stream.get_last_raw_message_by_subject(&subject);
        if let Ok(Ok(last)) = timeout(TIMEOUT, last).await {
            history.lock().reads.push(Read { began, revision: last.sequence, from: From::Leader });
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Reads what is there.
async fn find(cluster: &Cluster) -> Result<Found> {
    let mut found = Found { copies: copies(cluster)?, ..Found::default() };
    let deadline = Instant::now() + RECOVERY;
    while !found.agree() && Instant::now() < deadline {
        sleep(PAUSE_AFTER_FAILURE).await;
        found.copies = copies(cluster)?;
    }
    let jetstream = client(&cluster.url(), RECOVERY).await?;
    let stream = answered(async || jetstream.get_stream(STREAM).await).await?;
    let count = stream.cached_info().state.messages;
    if count > 0 {
        let config = OrderedConfig { headers_only: true, ..OrderedConfig::default() };
        let mut messages = stream.create_consumer(config).await?.messages().await?;
        for _ in 0..count {
            let message = messages.try_next().await?.context("the stream ended")?;
            let id = message.headers.as_ref().and_then(|headers| headers.get(NATS_MESSAGE_ID));
            let id = id.context("a message without an id")?.to_string();
            let sequence = message.info().map_err(Error::from_boxed)?.stream_sequence;
            found.stored.insert(sequence, id);
        }
    }
    let store = answered(async || jetstream.get_key_value(BUCKET).await).await?;
    found.counter = answered(async || counter(&store).await).await?;
    Ok(found)
}

/// Asks again and again. The servers may not have noticed yet that a leader has gone; and they give no
/// copy to a server that has not yet told them of itself, which a new one does after some time.
async fn answered<T, E: Into<Error>>(ask: impl AsyncFn() -> Result<T, E>) -> Result<T> {
    let deadline = Instant::now() + RECOVERY;
    loop {
        let failed: Error = match timeout(TIMEOUT, ask()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error.into(),
            Err(late) => late.into(),
        };
        if Instant::now() > deadline {
            return Err(failed);
        }
        sleep(PAUSE_AFTER_FAILURE).await;
    }
}

/// What each copy holds, of the stream and of the bucket.
fn copies(cluster: &Cluster) -> Result<[Vec<[u64; 2]>; 2]> {
    let mut copies = [Vec::new(), Vec::new()];
    for server in &cluster.servers {
        let jsz = server.monitor("/jsz?streams=1")?;
        let streams = jsz["account_details"][0]["stream_detail"].as_array();
        for (name, copies) in [STREAM, BUCKET_STREAM].into_iter().zip(&mut copies) {
            if let Some(stream) = streams.into_iter().flatten().find(|it| it["name"] == name) {
                let state = |part: &str| stream["state"][part].as_u64().unwrap_or_default();
                copies.push([state("messages"), state("last_seq")]);
            }
        }
    }
    Ok(copies)
}
