//! What the first versions do, and what they lose. The README states it; these tests measure it on
//! the very examples.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::{self, stream};
use testkit::{Link, Program, Server, Signal, example};

const PUBLISHER: &str = env!("CARGO_BIN_EXE_order-publisher");
const CONSUMER: &str = env!("CARGO_BIN_EXE_order-consumer");
const STREAM: &str = "playgrnd_stream";
/// Path to the consumer's figures in what /jsz?consumers=1 answers.
const CONSUMER_PATH: &str = "/account_details/0/stream_detail/0/consumer_detail/0";

#[test]
fn first_versions_and_services_can_be_mixed() -> Result<()> {
    // Whichever comes first creates the stream and the consumer, and the other one uses them.
    let server = Server::start()?;
    let mut published = finished(&server, example("first-order-publisher"), &[])?;
    published.extend(finished(&server, PUBLISHER, &[])?);
    let mut consumed = finished(&server, CONSUMER, &["--limit", "5"])?;
    consumed.extend(consumed_by_the_first_version(&server, 15)?);
    assert_eq!(ids(&consumed), ids(&published));

    let server = Server::start()?;
    let mut published = finished(&server, PUBLISHER, &[])?;
    let mut consumed = consumed_by_the_first_version(&server, 10)?;
    published.extend(finished(&server, example("first-order-publisher"), &[])?);
    consumed.extend(finished(&server, CONSUMER, &["--limit", "10"])?);
    assert_eq!(ids(&consumed), ids(&published));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_publisher_ends_in_an_outage_and_started_again_it_stores_orders_twice()
-> Result<()> {
    const ORDERS: usize = 100;
    let mut server = Server::start()?;
    create_file_stream(&server).await?;
    // Each order takes 40 ms, so there are seconds to kill nats-server in the middle.
    let link = Link::to(server.port())?;
    link.delay(Duration::from_millis(20));
    let mut command = server.command(example("first-order-publisher"));
    let mut publisher =
        Program::spawn(command.arg(ORDERS.to_string()).env("NATS_URL", link.url()))?;
    ensure!(publisher.wait_for(|lines| lines.len() >= 10), "too few orders");
    server.kill()?;
    let ended = publisher.wait()?;
    let reported = ids(&ended.stdout).len();
    ensure!(reported < ORDERS && ended.code() == Some(1), "{ended:?}");
    note(&format!("first publisher: {reported} orders, then {:?}", ended.stderr))?;

    server.restart()?;
    let before = stored(&server).await?;
    ensure!(before >= reported, "{reported} reported, {before} stored");
    finished(&server, example("first-order-publisher"), &[&ORDERS.to_string()])?;
    let after = stored(&server).await?;
    note(&format!("first publisher, started again: {after} stored of {ORDERS} orders"))?;
    assert_eq!(after, before + ORDERS);
    Ok(())
}

#[test]
fn the_first_consumer_leaves_orders_unacknowledged_when_it_is_stopped() -> Result<()> {
    let server = Server::start()?;
    finished(&server, PUBLISHER, &["--count", "20000", "--quiet"])?;
    // At the end of a batch it holds nothing for a moment. Stopped then, it is started again.
    let mut stops = 0;
    let left = loop {
        stops += 1;
        ensure!(stops <= 10, "none of ten stops has left an order unacknowledged");
        let mut consumer = Program::spawn(&mut server.command(example("first-order-consumer")))?;
        ensure!(consumer.wait_for(|lines| lines.len() >= 500), "too few orders");
        consumer.signal(Signal::INT)?;
        let ended = consumer.wait()?;
        ensure!(!ended.success(), "{ended:?}");
        server.monitor_until("/connz", |connz| connz["num_connections"] == 0)?;
        let jsz = server.monitor("/jsz?consumers=1")?;
        let consumer = jsz.pointer(CONSUMER_PATH).context("no consumer")?;
        ensure!(consumer["num_pending"].as_u64() > Some(0), "it had taken all: {consumer:#}");
        let left = consumer["num_ack_pending"].as_u64().context("no number")?;
        if left > 0 {
            break left;
        }
    };

    let mut next = Program::spawn(&mut server.command(CONSUMER))?;
    let ready = next.expect("waiting for orders")?;
    note(&format!("first consumer, stopped {stops} times in full flow: {ready}"))?;
    // nats-server may have counted some acknowledgements since.
    let found = ready.strip_suffix(" unacknowledged").and_then(|it| it.rsplit(' ').next());
    let found = found.and_then(|it| it.parse::<u64>().ok());
    ensure!(found.is_some_and(|found| 0 < found && found <= left), "{left}: {ready}");
    // Those come only when `ack_wait` is over.
    ensure!(
        next.wait_for(|lines| lines.iter().any(|line| line.contains("(delivery 2)"))),
        "{next:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_consumer_ends_at_a_malformed_order_each_time_it_is_started() -> Result<()> {
    let server = Server::start()?;
    finished(&server, PUBLISHER, &["--count", "1"])?;
    let jetstream = jetstream::new(async_nats::connect(server.url()).await?);
    jetstream.publish("orders.created", "no order".into()).await?.await?;
    finished(&server, PUBLISHER, &["--count", "1"])?;

    for start in 1..=3 {
        let ended = Program::spawn(&mut server.command(example("first-order-consumer")))?.wait()?;
        ensure!(ended.code() == Some(1), "start {start}: {ended:?}");
        note(&format!("first consumer, start {start}: {:?}, {:?}", ended.stdout, ended.stderr))?;
    }
    let mut service = Program::spawn(&mut server.command(CONSUMER))?;
    service.expect_stderr("number 2 is no order, it is terminated")?;
    wait_until_acknowledged(&server)?;
    let ended = service.stop()?;
    ensure!(ended.success(), "{ended:?}");
    Ok(())
}

/// Runs a program to its end, and returns what it printed.
fn finished(server: &Server, program: impl AsRef<Path>, args: &[&str]) -> Result<Vec<String>> {
    let mut command = server.command(program.as_ref());
    let ended = Program::spawn(command.args(args))?.wait()?;
    ensure!(ended.success(), "{ended:?}");
    Ok(ended.stdout)
}

/// Starts the first version of the consumer, and kills it when it has taken `count` orders.
fn consumed_by_the_first_version(server: &Server, count: usize) -> Result<Vec<String>> {
    let mut consumer = Program::spawn(&mut server.command(example("first-order-consumer")))?;
    ensure!(consumer.wait_for(|lines| lines.len() == count), "no {count} orders");
    wait_until_acknowledged(server)?;
    consumer.kill()?;
    Ok(consumer.wait()?.stdout)
}

fn wait_until_acknowledged(server: &Server) -> Result<()> {
    server.monitor_until("/jsz?consumers=1", |jsz| {
        jsz.pointer(CONSUMER_PATH).is_some_and(|consumer| {
            consumer["num_ack_pending"] == 0 && consumer["num_pending"] == 0
        })
    })?;
    Ok(())
}

async fn create_file_stream(server: &Server) -> Result<()> {
    let config = stream::Config {
        name: STREAM.into(),
        subjects: vec!["orders.>".into()],
        ..Default::default()
    };
    jetstream::new(async_nats::connect(server.url()).await?).create_stream(config).await?;
    Ok(())
}

/// How many orders the stream holds.
async fn stored(server: &Server) -> Result<usize> {
    let jetstream = jetstream::new(async_nats::connect(server.url()).await?);
    let stream = jetstream.get_stream(STREAM).await?;
    Ok(usize::try_from(stream.cached_info().state.messages)?)
}

/// The order ids in lines of any of the programs.
fn ids(lines: &[String]) -> Vec<&str> {
    let ids = lines.iter().filter_map(|line| line.split([':', ' ']).next());
    ids.filter(|id| id.len() > 17 && id.as_bytes()[16] == b'-').collect()
}

/// Says what was measured, for `cargo test -- --nocapture`.
fn note(text: &str) -> Result<()> {
    Ok(writeln!(std::io::stderr(), "{text}")?)
}
