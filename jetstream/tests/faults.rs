//! What happens to orders when servers and programs are killed.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::{self, stream};
use futures::StreamExt;
use testkit::{Cluster, Link, Program, Server};

const PUBLISHER: &str = env!("CARGO_BIN_EXE_order-publisher");
const CONSUMER: &str = env!("CARGO_BIN_EXE_order-consumer");
const STREAM: &str = "playgrnd_stream";

fn publisher(server: &Server, args: &str) -> Result<Program> {
    Program::spawn(server.command(PUBLISHER).args(args.split_whitespace()))
}

fn consumer(server: &Server) -> Result<Program> {
    Program::spawn(&mut server.command(CONSUMER))
}

/// Says what was measured, for `cargo test -- --nocapture`: the figures in the README.
macro_rules! note {
    ($($text:tt)*) => { writeln!(std::io::stderr(), $($text)*)? };
}

/// How often each order id is found in lines of either program. A program that is killed may
/// leave half a line.
fn ids(lines: &[String]) -> HashMap<&str, usize> {
    let mut ids = HashMap::new();
    for line in lines {
        if let Some((id, _)) = line.split_once([':', ' '])
            && id.len() > 17
            && id.as_bytes()[16] == b'-'
        {
            *ids.entry(id).or_default() += 1;
        }
    }
    ids
}

/// The message ids that the stream holds, in its order, read by a client of the test.
async fn stored(url: &str) -> Result<Vec<String>> {
    let servers: Vec<_> = url.split(',').collect();
    let jetstream = jetstream::new(async_nats::connect(servers).await?);
    let stream = jetstream.get_stream(STREAM).await?;
    let count = stream.cached_info().state.messages;
    let config =
        jetstream::consumer::pull::OrderedConfig { headers_only: true, ..Default::default() };
    let consumer = stream.create_consumer(config).await?;
    let mut messages = consumer.messages().await?.take(usize::try_from(count)?);
    let mut stored = Vec::new();
    while let Some(message) = messages.next().await {
        let message = message?;
        let id = message.headers.as_ref().and_then(|headers| headers.get("Nats-Msg-Id"));
        stored.push(id.context("a message without id")?.to_string());
    }
    Ok(stored)
}

/// Every order that was reported is stored once, and printed.
fn nothing_is_lost(
    reported: &HashMap<&str, usize>,
    stored: &[String],
    printed: &HashMap<&str, usize>,
) -> Result<()> {
    let once: HashSet<_> = stored.iter().map(String::as_str).collect();
    let doubled = stored.len() - once.len();
    ensure!(doubled == 0, "{doubled} orders are stored more than once");
    let lost = reported.keys().filter(|id| !once.contains(**id));
    let lost = lost.count();
    ensure!(lost == 0, "{lost} orders were reported and are not stored");
    let unseen = reported.keys().filter(|id| !printed.contains_key(**id));
    let unseen = unseen.count();
    ensure!(unseen == 0, "{unseen} orders were never printed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reported_order_is_stored_once_and_printed_while_all_are_killed_in_turn() -> Result<()>
{
    const ORDERS: usize = 150_000;
    let start = Instant::now();
    let mut server = Server::start()?;
    let mut publisher = publisher(&server, &format!("--count {ORDERS} --storage file"))?;
    let mut lines = Vec::new();
    let mut running = consumer(&server)?;
    for step in 1..=6 {
        // By what it has reported, not by time: on any machine it is in full flow.
        assert!(publisher.wait_for(|lines| lines.len() > step * ORDERS / 8));
        if step % 2 == 0 {
            server.kill()?;
            server.restart()?;
        } else {
            running.kill()?;
            lines.extend(running.wait()?.stdout);
            running = consumer(&server)?;
        }
    }
    let ended = publisher.wait()?;
    assert!(ended.success(), "{:?}", ended.stderr);
    let reported = ids(&ended.stdout);
    assert_eq!(reported.len(), ORDERS);
    let published_after = start.elapsed();

    let stored = stored(&server.url()).await?;
    assert_eq!(stored.len(), ORDERS);
    // Orders change places only with orders that were in flight at the same time.
    let (mut highest, mut late, mut latest) = (0, 0, 0);
    for id in &stored {
        let number: usize = id.split('-').nth(1).context("no number")?.parse()?;
        if number < highest {
            (late, latest) = (late + 1, latest.max(highest - number));
        }
        highest = highest.max(number);
    }
    ensure!(latest < 256, "an order came {latest} places late");
    let recognised = ended.stdout.iter().filter(|line| line.ends_with("(was stored already)"));
    let recognised = recognised.count();

    // What the last killed consumer held comes after `ack_wait`.
    server.monitor_until("/jsz?consumers=1", |jsz| {
        let consumer = &jsz["account_details"][0]["stream_detail"][0]["consumer_detail"][0];
        consumer["num_pending"] == 0 && consumer["num_ack_pending"] == 0
    })?;
    let stopped = running.stop()?;
    assert!(stopped.success());
    lines.extend(stopped.stdout);
    let printed = ids(&lines);
    nothing_is_lost(&reported, &stored, &printed)?;
    let twice = printed.values().filter(|times| **times > 1).count();
    let came_again = lines.iter().filter(|line| line.contains("(delivery ")).count();
    note!(
        "published after {published_after:.1?}, all after {:.1?}; {recognised} sent again and \
         recognised; {late} stored up to {latest} places late; {twice} printed twice by two \
         consumers; {came_again} marked as delivered again; {:?}",
        start.elapsed(),
        stopped.stderr
    );
    Ok(())
}

#[test]
fn orders_in_memory_go_with_the_server_and_both_programs_go_on() -> Result<()> {
    let mut server = Server::start()?;
    let mut publisher = publisher(&server, "--count 100000000 --quiet")?;
    let mut consumer = consumer(&server)?;
    assert!(consumer.wait_for(|lines| lines.len() > 2_000));
    for _ in 0..2 {
        server.kill()?;
        publisher.expect_stderr("lost the connection")?;
        consumer.expect_stderr("lost the connection")?;
        server.restart()?;
        let back = Instant::now();
        let before = consumer.stdout().len();
        publisher.expect_stderr("playgrnd_stream was gone, with all its orders")?;
        assert!(consumer.wait_for(|lines| lines.len() > before + 1_000));
        let took = back.elapsed();
        note!("in full flow again after {took:.1?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    assert!(publisher.stop()?.success());
    assert!(consumer.stop()?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_goes_on_when_its_consumer_or_its_stream_is_deleted() -> Result<()> {
    let server = Server::start()?;
    let jetstream = jetstream::new(async_nats::connect(server.url()).await?);
    let mut consumer = consumer(&server)?;
    consumer.expect_stderr("there is no stream")?;
    let mut expected = 1;
    for deleted in ["consumer", "stream", "consumer", "stream"] {
        publisher(&server, "--count 20")?.wait()?;
        expected += 20;
        assert!(consumer.wait_for(|lines| lines.len() == expected));
        let start = Instant::now();
        if deleted == "consumer" {
            jetstream.delete_consumer_from_stream("order_processor", STREAM).await?;
            consumer.expect_stderr("order_processor was gone")?;
        } else {
            jetstream.delete_stream(STREAM).await?;
            consumer.expect_stderr("there is no stream")?;
        }
        publisher(&server, "--count 20")?.wait()?;
        expected += 20;
        assert!(consumer.wait_for(|lines| lines.len() == expected));
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    let ended = consumer.stop()?;
    assert!(ended.success());
    // A new consumer begins with the first order: what comes again is recognised.
    assert!(ended.stderr.iter().any(|line| line.contains("came again")));
    assert!(ids(&ended.stdout).values().all(|times| *times == 1));
    Ok(())
}

#[test]
fn an_idle_consumer_works_again_soon_after_the_servers_return() -> Result<()> {
    let mut server = Server::start()?;
    publisher(&server, "--storage file")?.wait()?;
    let mut consumer = consumer(&server)?;
    assert!(consumer.wait_for(|lines| lines.len() == 11));
    for restart in 1..=3 {
        if restart == 2 {
            server.stop()?;
        } else {
            server.kill()?;
        }
        consumer.expect_stderr("lost the connection")?;
        server.restart()?;
        let back = Instant::now();
        publisher(&server, "--storage file --count 1")?.wait()?;
        assert!(consumer.wait_for(|lines| lines.len() == 11 + restart));
        let took = back.elapsed();
        note!("an order printed {took:.1?} after the server's return");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    let ended = consumer.stop()?;
    assert!(ended.success());
    let said = |text: &str| ended.stderr.iter().filter(|line| line.contains(text)).count();
    assert_eq!((said("lost the connection"), said("connected to")), (3, 3), "once each");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_whose_question_is_lost_with_the_server_asks_again_at_once() -> Result<()> {
    let mut server = Server::start()?;
    let client = async_nats::connect(server.url()).await?;
    let mut questions = client.subscribe("$JS.API.CONSUMER.>").await?;
    client.flush().await?;
    let link = Link::to(server.port())?;
    link.delay(Duration::from_millis(300));
    let mut command = server.command(CONSUMER);
    let mut consumer = Program::spawn(command.env("NATS_URL", link.url()))?;
    consumer.expect_stderr("there is no stream")?;
    // The first question was answered. Of the second one the answer is on its way.
    for _ in 0..2 {
        questions.next().await.context("closed")?;
    }
    link.cut();
    server.kill()?;
    link.reset();
    consumer.expect_stderr("lost the connection")?;
    link.heal();
    link.delay(Duration::ZERO);
    server.restart()?;
    let back = Instant::now();
    publisher(&server, "--count 1")?.wait()?;
    assert!(consumer.wait_for(|lines| lines.len() == 2));
    let took = back.elapsed();
    note!("an order printed {took:.1?} after the server's return");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(consumer.stop()?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_lose_nothing_when_their_leader_is_killed() -> Result<()> {
    const ORDERS: usize = 20_000;
    let mut cluster = Cluster::start(3)?;
    let url = cluster.url();
    let command = |program: &str| {
        let mut command = cluster.servers[0].command(program);
        command.env("NATS_URL", &url);
        command
    };
    let args = format!("--storage file --replicas 3 --count {ORDERS}");
    let mut publisher = Program::spawn(command(PUBLISHER).args(args.split_whitespace()))?;
    let mut consumer = Program::spawn(&mut command(CONSUMER))?;
    assert!(publisher.wait_for(|lines| lines.len() > ORDERS / 4));

    let servers: Vec<_> = url.split(',').collect();
    let client = jetstream::new(async_nats::connect(servers).await?);
    let mut stream: stream::Stream = client.get_stream(STREAM).await?;
    let cluster_info = stream.info().await?.cluster.clone();
    let leader = cluster_info.and_then(|cluster| cluster.leader);
    let leader = leader.context("no leader")?;
    let number: usize = leader.trim_start_matches('n').parse()?;
    let killed = Instant::now();
    cluster.servers[number - 1].kill()?;
    let before = publisher.stdout().len();
    assert!(publisher.wait_for(|lines| lines.len() > (before + 500).min(ORDERS)));
    note!("stored again {:.1?} after the leader was killed", killed.elapsed());

    let ended = publisher.wait()?;
    assert!(ended.success(), "{:?}", ended.stderr);
    let reported = ids(&ended.stdout);
    assert_eq!(reported.len(), ORDERS);
    assert!(consumer.wait_for(|lines| lines.len() > ORDERS && ids(lines).len() == ORDERS));
    let stored = stored(&url).await?;
    let stopped = consumer.stop()?;
    assert!(stopped.success());
    nothing_is_lost(&reported, &stored, &ids(&stopped.stdout))?;
    note!("{:?}; {:?}", publisher.stderr(), stopped.stderr);
    Ok(())
}
