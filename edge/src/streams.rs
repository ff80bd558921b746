//! What the two servers store, and what they copy over the line.

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream::consumer::{AckPolicy, push};
use async_nats::jetstream::stream::{Config, External, Source, StorageType, StreamConsumerSource};
use async_nats::jetstream::{Context, ContextBuilder, kv};
use async_nats::{Client, ConnectOptions};

use crate::edge::{Edge, HUB, LEAF};

/// The stream of readings, on both sides.
pub const READINGS: &str = "readings";
/// What it captures.
pub const SUBJECT: &str = "device.temp";
/// The consumer at the leaf node by which the hub gets the readings.
pub const CONSUMER: &str = "hub";
/// The subject on which the readings cross the line.
pub const DELIVERY: &str = "edge.leaf1.readings";
/// The bucket, which the leaf node mirrors.
pub const BUCKET: &str = "configs_playgrnd";
/// The consumer at the hub by which the leaf node gets the changes of the bucket.
pub const BUCKET_CONSUMER: &str = "leaf1";
/// The subject on which they cross the line.
pub const BUCKET_DELIVERY: &str = "edge.leaf1.configs";

/// A consumer that has nothing to send says so this often, and the other side then says how far it
/// has stored.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Time for an answer: a machine that starts several servers is busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client of the server with this URL.
///
/// # Errors
///
/// If it cannot connect.
pub async fn client(url: &str) -> Result<Client> {
    let connecting = ConnectOptions::new().connection_timeout(PATIENCE).connect(url).await;
    connecting.with_context(|| format!("cannot connect to {url}"))
}

/// The JetStream of a server.
///
/// # Errors
///
/// If it cannot connect.
pub async fn jetstream(url: &str) -> Result<Context> {
    Ok(ContextBuilder::new().timeout(PATIENCE).build(client(url).await?))
}

/// Makes the stream and the bucket on both sides, and lets each side copy what it is to have. Does
/// nothing if that is done.
///
/// # Errors
///
/// If a server refuses something: both have to be nats-server 2.14 or later.
pub async fn lay(edge: &Edge) -> Result<()> {
    let hub = jetstream(&edge.hub().url()).await?;
    let leaf = jetstream(&edge.leaf().url()).await?;
    leaf.create_or_update_stream(readings()).await?;
    deliver(&leaf, READINGS, CONSUMER, DELIVERY).await?;
    let sources = vec![durable_source()];
    hub.create_or_update_stream(Config { sources: Some(sources), ..readings() }).await?;

    hub.create_key_value(bucket()).await?;
    deliver(&hub, &format!("KV_{BUCKET}"), BUCKET_CONSUMER, BUCKET_DELIVERY).await?;
    leaf.create_key_value(kv::Config { mirror: Some(durable_mirror()), ..bucket() }).await?;
    Ok(())
}

/// As [`lay`], for a program that is not async.
///
/// # Errors
///
/// As [`lay`].
pub fn lay_blocking(edge: &Edge) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(lay(edge))
}

/// The stream as the program `recorder` makes it.
#[must_use]
pub fn readings() -> Config {
    Config {
        name: READINGS.into(),
        subjects: vec![SUBJECT.into()],
        storage: StorageType::File,
        ..Config::default()
    }
}

/// The bucket as the program `config-admin` makes it.
#[must_use]
pub fn bucket() -> kv::Config {
    kv::Config {
        bucket: BUCKET.into(),
        storage: StorageType::File,
        history: 64,
        ..kv::Config::default()
    }
}

/// The leaf node's readings by a consumer that nats-server makes itself, and makes again when it has
/// heard nothing of it for a while: late after a cut.
#[must_use]
pub fn plain_source() -> Source {
    Source { name: READINGS.into(), external: Some(domain(LEAF)), ..Source::default() }
}

/// The leaf node's readings by the consumer that [`deliver`] makes.
#[must_use]
pub fn durable_source() -> Source {
    let consumer = StreamConsumerSource::new(CONSUMER, DELIVERY);
    Source { consumer: Some(consumer), ..plain_source() }
}

/// The hub's bucket, as the leaf node mirrors it.
#[must_use]
pub fn durable_mirror() -> Source {
    let consumer = StreamConsumerSource::new(BUCKET_CONSUMER, BUCKET_DELIVERY);
    Source {
        name: BUCKET.into(),
        external: Some(domain(HUB)),
        consumer: Some(consumer),
        ..Source::default()
    }
}

/// Makes a durable consumer from which a stream on the other side of the line copies.
///
/// # Errors
///
/// If nats-server refuses it.
pub async fn deliver(from: &Context, stream: &str, name: &str, subject: &str) -> Result<()> {
    let config = push::Config {
        durable_name: Some(name.into()),
        deliver_subject: subject.into(),
        // The other side acknowledges what it has stored when nats-server asks, by flow control.
        ack_policy: AckPolicy::FlowControl,
        flow_control: true,
        idle_heartbeat: HEARTBEAT,
        max_deliver: -1,
        ..push::Config::default()
    };
    from.get_stream(stream).await?.create_consumer(config).await?;
    Ok(())
}

/// The JetStream API of a domain.
fn domain(name: &str) -> External {
    External { api_prefix: format!("$JS.{name}.API"), delivery_prefix: None }
}
