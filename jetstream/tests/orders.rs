//! `order-publisher` and `order-consumer` against a real server.

use std::collections::BTreeSet;
use std::future::ready;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::consumer::{self, PullConsumer};
use async_nats::jetstream::{self, AckKind, stream};
use futures::StreamExt;
use testkit::{Ended, Link, Program, Server, Signal};
use tokio::time::{sleep, timeout};

const PUBLISHER: &str = env!("CARGO_BIN_EXE_order-publisher");
const CONSUMER: &str = env!("CARGO_BIN_EXE_order-consumer");
const STREAM: &str = "playgrnd_stream";

fn publisher(server: &Server, args: &str) -> Result<Program> {
    Program::spawn(server.command(PUBLISHER).args(args.split_whitespace()))
}

fn consumer(server: &Server, args: &str) -> Result<Program> {
    Program::spawn(server.command(CONSUMER).args(args.split_whitespace()))
}

async fn client(server: &Server) -> Result<jetstream::Context> {
    Ok(jetstream::new(async_nats::connect(server.url()).await?))
}

/// Stops a program that has nothing left to do but what it has begun.
fn stopped_in_time(program: &mut Program) -> Result<Ended> {
    let told = Instant::now();
    let ended = program.stop()?;
    ensure!(ended.success() && ended.stderr.is_empty(), "{ended:?}");
    ensure!(told.elapsed() < Duration::from_secs(5), "it took {:?}", told.elapsed());
    Ok(ended)
}

/// The consumer's figures in what /jsz?consumers=1 answers.
fn consumer_info(jsz: &serde_json::Value) -> Option<&serde_json::Value> {
    jsz.pointer("/account_details/0/stream_detail/0/consumer_detail/0")
}

/// Says what was measured, for `cargo test -- --nocapture`.
fn note(text: &str) -> Result<()> {
    Ok(writeln!(std::io::stderr(), "{text}")?)
}

/// Orders delivered and not acknowledged, and orders not delivered yet, when nats-server has had time to
/// count the acknowledgements that it has received.
async fn left(server: &Server) -> Result<(usize, u64)> {
    let stream = client(server).await?.get_stream_no_info(STREAM).await?;
    let begun = Instant::now();
    loop {
        let info = stream.consumer_info("order_processor").await?;
        if info.num_ack_pending == 0 || begun.elapsed() > Duration::from_secs(2) {
            return Ok((info.num_ack_pending, info.num_pending));
        }
    }
}

/// The order ids in lines of either program, in their order.
fn ids(lines: &[String]) -> Vec<&str> {
    lines
        .iter()
        .filter_map(|line| line.split([':', ' ']).next())
        .filter(|id| id.len() > 17 && id.as_bytes()[16] == b'-')
        .collect()
}

fn one_line(ended: &Ended) -> Result<&str> {
    ensure!(ended.code() == Some(1), "{ended:?}");
    ensure!(ended.stderr.len() == 1, "{ended:?}");
    Ok(&ended.stderr[0])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_starts_later_gets_every_order_once_and_in_order() -> Result<()> {
    let server = Server::start()?;
    let published = publisher(&server, "")?.wait()?;
    assert!(published.success());
    assert_eq!(published.stdout.len(), 11);
    assert!(published.stdout[10].starts_with("10 orders in "), "{published:?}");

    let consumed = consumer(&server, "--limit 10")?.wait()?;
    assert!(consumed.success());
    assert_eq!(ids(&consumed.stdout), ids(&published.stdout));
    assert_eq!(ids(&consumed.stdout).len(), 10);
    let last = consumed.stdout.last().context("no line")?;
    assert!(last.starts_with("10 orders in "), "{last}");
    assert_eq!(left(&server).await?, (0, 0));
    Ok(())
}

#[test]
fn order_ids_are_unique_across_runs() -> Result<()> {
    let server = Server::start()?;
    let first = publisher(&server, "--count 100")?.wait()?;
    let second = publisher(&server, "--count 100")?.wait()?;
    let all: BTreeSet<_> = ids(&first.stdout).into_iter().chain(ids(&second.stdout)).collect();
    assert_eq!(all.len(), 200);
    Ok(())
}

#[test]
fn quiet_programs_print_only_their_summaries() -> Result<()> {
    let server = Server::start()?;
    let published = publisher(&server, "--count 1000 --quiet")?.wait()?;
    let consumed = consumer(&server, "--limit 1000 --quiet")?.wait()?;
    assert_eq!(published.stdout.len(), 1);
    assert_eq!(consumed.stdout.len(), 2, "one when it is ready, one at the end");
    assert!(consumed.stdout[1].starts_with("1000 orders in "));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_work_is_neither_redelivered_nor_left_unacknowledged_after_sigterm() -> Result<()> {
    let server = Server::start()?;
    publisher(&server, "--count 1000 --quiet")?.wait()?;
    let mut consumer = consumer(&server, "--work 100ms")?;
    // A batch of 1,000 orders would take 100 s, and ack_wait is 5 s. These take 6 s.
    assert!(consumer.wait_for(|lines| lines.len() > 60));
    let ended = stopped_in_time(&mut consumer)?;
    let taken = ids(&ended.stdout);
    assert_eq!(left(&server).await?, (0, 1_000 - taken.len() as u64));
    assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), taken.len(), "printed twice");
    assert!(!ended.stdout.iter().any(|line| line.contains("(delivery")), "{ended:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_takes_longer_than_ack_wait_is_not_redelivered() -> Result<()> {
    let server = Server::start()?;
    publisher(&server, "--count 1")?.wait()?;
    let mut busy = consumer(&server, "--work 8s --limit 1")?;
    server.monitor_until("/jsz?consumers=1", |jsz| {
        consumer_info(jsz).is_some_and(|info| info["num_ack_pending"] == 1)
    })?;
    let mut idle = consumer(&server, "")?;
    let ended = busy.wait()?;
    assert!(ended.success());
    assert_eq!(ids(&ended.stdout).len(), 1);
    assert_eq!(left(&server).await?, (0, 0));
    let ended = stopped_in_time(&mut idle)?;
    assert_eq!(ids(&ended.stdout).len(), 0, "{ended:?}");
    Ok(())
}

/// A consumer that works on an order, and has reported progress. Then its network is cut, so its
/// acknowledgement does not arrive.
struct Working {
    consumer: Program,
    link: Link,
    /// What consumers report to nats-server, from then on.
    reports: async_nats::Subscriber,
    _server: Server,
}

async fn cut_off_at_work(work: &str) -> Result<Working> {
    let server = Server::start()?;
    publisher(&server, "--count 1")?.wait()?;
    let client = async_nats::connect(server.url()).await?;
    let mut reports = client.subscribe("$JS.ACK.>").await?;
    client.flush().await?;
    let link = Link::to(server.port())?;
    let mut command = server.command(CONSUMER);
    command.args(["--work", work]).env("NATS_URL", link.url());
    let consumer = Program::spawn(&mut command)?;
    reports.next().await.context("the subscription ended")?;
    link.cut();
    assert!(consumer.wait_for(|lines| lines.len() == 2));
    Ok(Working { consumer, link, reports, _server: server })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_stopped_before_its_acknowledgement_is_confirmed_says_so() -> Result<()> {
    let Working { mut consumer, link: _link, _server, .. } = cut_off_at_work("4s").await?;
    // Time in which it asks for the next batch. If it is stopped before that, it ends sooner.
    sleep(Duration::from_secs(1)).await;
    let told = Instant::now();
    let ended = consumer.stop()?;
    assert!(told.elapsed() < Duration::from_secs(5));
    let error = one_line(&ended)?;
    assert!(error.contains("1 acknowledgements: these messages may come again"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_lost_with_its_connection_is_sent_again() -> Result<()> {
    for is_stopped in [false, true] {
        let Working { mut consumer, link, reports, _server } = cut_off_at_work("2s").await?;
        if is_stopped {
            consumer.signal(Signal::TERM)?;
        }
        link.reset();
        link.heal();
        let mut acknowledged = reports.filter(|report| ready(report.payload == "+ACK"));
        let acknowledged = timeout(Duration::from_secs(20), acknowledged.next()).await?;
        let subject = acknowledged.context("the subscription ended")?.subject;
        // The first delivery, not the second one after ack_wait.
        let expected = format!("$JS.ACK.{STREAM}.order_processor.1.");
        ensure!(subject.starts_with(&expected), "{subject}");
        let ended = if is_stopped { consumer.wait()? } else { consumer.stop()? };
        ensure!(ended.code() == Some(0), "{ended:?}");
    }
    Ok(())
}

#[test]
fn an_idle_consumer_stopped_while_the_server_is_away_has_left_nothing_undone() -> Result<()> {
    let mut server = Server::start()?;
    publisher(&server, "--count 10 --storage file")?.wait()?;
    let mut consumer = consumer(&server, "")?;
    assert!(consumer.wait_for(|lines| lines.len() == 11));
    server.monitor_until("/jsz?consumers=1", |jsz| {
        consumer_info(jsz).is_some_and(|info| info["num_ack_pending"] == 0)
    })?;
    server.kill()?;
    consumer.expect_stderr("lost the connection")?;
    let told = Instant::now();
    let ended = consumer.stop()?;
    assert!(told.elapsed() < Duration::from_secs(5));
    // It may have been killed between the acknowledgement and its confirmation.
    let unconfirmed =
        ended.stderr.iter().any(|line| line.contains("these messages may come again"));
    assert_eq!(ended.code(), Some(i32::from(unconfirmed)), "{ended:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_with_other_settings_is_not_changed_but_an_error_that_says_which() -> Result<()>
{
    let server = Server::start()?;
    publisher(&server, "--count 1")?.wait()?;
    let stream = client(&server).await?.get_stream(STREAM).await?;
    let config = consumer::pull::Config {
        durable_name: Some("order_processor".into()),
        ack_wait: Duration::from_secs(60),
        ..Default::default()
    };
    let _: PullConsumer = stream.create_consumer(config).await?;
    let ended = consumer(&server, "")?.wait()?;
    let line = one_line(&ended)?;
    assert!(line.contains("ack_wait is 60s, not 5s"), "{line}");
    let found = stream.consumer_info("order_processor").await?;
    assert_eq!(found.config.ack_wait, Duration::from_secs(60));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_retry_cures_ends_a_consumer_at_once() -> Result<()> {
    let server = Server::start()?;
    publisher(&server, "--count 1")?.wait()?;
    let stream = client(&server).await?.get_stream(STREAM).await?;
    let config = consumer::push::Config {
        durable_name: Some("order_processor".into()),
        deliver_subject: "orders-for-me".into(),
        ..Default::default()
    };
    let _: consumer::PushConsumer = stream.create_consumer(config).await?;
    let ended = consumer(&server, "")?.wait()?;
    let line = one_line(&ended)?;
    assert!(line.contains("cannot take orders on"), "{line}");
    note(line)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_parse_is_reported_and_never_comes_again() -> Result<()> {
    let server = Server::start()?;
    publisher(&server, "--count 1")?.wait()?;
    let jetstream = client(&server).await?;
    for payload in ["no order", r#"{"order_id": 5}"#, "\u{1b}[2J"] {
        jetstream.publish("orders.created", payload.into()).await?.await?;
    }
    publisher(&server, "--count 1")?.wait()?;

    let ended = consumer(&server, "--limit 2")?.wait()?;
    assert!(ended.success());
    assert_eq!(ids(&ended.stdout).len(), 2, "malformed ones do not count");
    assert_eq!(ended.stderr.len(), 3, "{ended:?}");
    assert!(ended.stderr[0].contains("number 2 is no order"), "{ended:?}");
    assert_eq!(left(&server).await?, (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_comes_again_is_noticed_and_not_printed_twice() -> Result<()> {
    let server = Server::start()?;
    let published = publisher(&server, "--count 1")?.wait()?;
    let id = ids(&published.stdout)[0];
    let jetstream = client(&server).await?;
    // Without a message id nats-server cannot recognise it.
    let again =
        format!(r#"{{"order_id":"{id}","item":"keyboard","quantity":1,"unit_price_cents":4999}}"#);
    jetstream.publish("orders.created", again.into()).await?.await?;
    publisher(&server, "--count 1")?.wait()?;

    let ended = consumer(&server, "--limit 2")?.wait()?;
    assert_eq!(ids(&ended.stdout).len(), 2);
    assert_eq!(ids(&ended.stdout)[0], id);
    assert!(ended.stderr.iter().any(|line| line.contains("1 orders came again")), "{ended:?}");
    assert_eq!(left(&server).await?, (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_another_consumer_had_before_says_so() -> Result<()> {
    let server = Server::start()?;
    publisher(&server, "--count 2")?.wait()?;
    let stream = client(&server).await?.get_stream(STREAM).await?;
    let config = consumer::pull::Config {
        durable_name: Some("order_processor".into()),
        ack_wait: Duration::from_secs(5),
        ..Default::default()
    };
    let other: PullConsumer = stream.create_consumer(config).await?;
    let mut batch = other.fetch().max_messages(1).messages().await?;
    let message = batch.next().await.context("no message")?.map_err(anyhow::Error::from_boxed)?;
    message.ack_with(AckKind::Nak(None)).await.map_err(anyhow::Error::from_boxed)?;

    let ended = consumer(&server, "--limit 2")?.wait()?;
    let marked = ended.stdout.iter().filter(|line| line.ends_with("(delivery 2)"));
    assert_eq!(marked.count(), 1, "{ended:?}");
    Ok(())
}

#[test]
fn a_consumer_waits_for_the_stream_and_never_creates_it() -> Result<()> {
    let server = Server::start()?;
    let mut consumer = consumer(&server, "--limit 10")?;
    consumer.expect_stderr("there is no stream playgrnd_stream")?;
    assert_eq!(server.monitor("/jsz")?["streams"], 0);
    publisher(&server, "")?.wait()?;
    let ended = consumer.wait()?;
    assert!(ended.success());
    assert_eq!(ids(&ended.stdout).len(), 10);
    assert_eq!(ended.stderr.len(), 1, "said once");
    Ok(())
}

#[test]
fn without_jetstream_both_end_at_once_with_a_clear_line() -> Result<()> {
    let server = Server::options().no_jetstream().start()?;
    for mut program in [publisher(&server, "")?, consumer(&server, "")?] {
        let start = Instant::now();
        let ended = program.wait()?;
        assert!(start.elapsed() < Duration::from_secs(2));
        let line = one_line(&ended)?;
        assert!(line.contains("JetStream is off") && line.contains(&server.url()), "{line}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_with_other_settings_is_an_error_that_says_which() -> Result<()> {
    let server = Server::start()?;
    let config = stream::Config {
        name: STREAM.into(),
        subjects: vec!["orders.>".into(), "more.orders".into()],
        max_messages: 5,
        storage: stream::StorageType::Memory,
        ..Default::default()
    };
    client(&server).await?.create_stream(config).await?;
    let ended = publisher(&server, "--storage file")?.wait()?;
    let line = one_line(&ended)?;
    for part in [
        "max_msgs is 5, not unset",
        "storage is memory, not file",
        r#"subjects is ["orders.>","more.orders"], not ["orders.>"]"#,
    ] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    assert!(!line.contains("retention") && !line.contains("duplicate"), "{line}");
    Ok(())
}

#[test]
fn replicas_without_a_cluster_are_an_error_that_says_so() -> Result<()> {
    let server = Server::start()?;
    let ended = publisher(&server, "--replicas 3")?.wait()?;
    let line = one_line(&ended)?;
    assert!(line.contains("a replica needs a server of its own"), "{line}");
    Ok(())
}

#[test]
fn a_limit_reached_is_an_error_that_says_how_many_are_stored() -> Result<()> {
    let account = "accounts { A { jetstream { max_mem: 100KB, max_file: 100KB }, users: [ { user: a, password: a } ] } }
        no_auth_user: a";
    for storage in ["memory", "file"] {
        let server = Server::options().config(account).start()?;
        let ended = publisher(&server, &format!("--count 5000 --storage {storage}"))?.wait()?;
        let line = one_line(&ended)?;
        let stored = ids(&ended.stdout).len();
        assert!((100..5000).contains(&stored));
        assert!(line.contains(&format!("{stored} orders are stored")), "{line}");
        assert!(line.contains("raise the limits of account or server"), "{line}");
        let jsz = server.monitor("/jsz?streams=1&accounts=1")?;
        let state = &jsz["account_details"][0]["stream_detail"][0]["state"];
        assert_eq!(state["messages"], stored, "{jsz:#}");
    }
    Ok(())
}

#[test]
fn a_missing_permission_is_an_error_that_names_the_subject() -> Result<()> {
    for (denied, program) in [
        ("orders.>", PUBLISHER),
        ("$JS.API.STREAM.CREATE.>", PUBLISHER),
        ("$JS.API.CONSUMER.>", CONSUMER),
    ] {
        let config = format!(
            "authorization {{ users: [ {{ user: a, password: a, permissions: {{ publish: {{ deny: \"{denied}\" }} }} }} ] }}\nno_auth_user: a"
        );
        let server = Server::options().config(&config).start()?;
        let ended = Program::spawn(&mut server.command(program))?.wait()?;
        let line = one_line(&ended)?;
        assert!(line.contains("Permissions Violation"), "{line}");
        assert!(!ended.stdout.iter().any(|line| line.contains("stored")), "{ended:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_publisher_has_reported_exactly_what_is_stored() -> Result<()> {
    let server = Server::start()?;
    let mut publisher = publisher(&server, "--count 10000000")?;
    assert!(publisher.wait_for(|lines| lines.len() > 1_000));
    let ended = publisher.stop()?;
    assert!(ended.success());
    let stored = ids(&ended.stdout).len();
    let summary = ended.stdout.last().context("no summary")?;
    assert!(summary.starts_with(&format!("{stored} orders in ")), "{summary}");
    let stream = client(&server).await?.get_stream(STREAM).await?;
    assert_eq!(usize::try_from(stream.cached_info().state.messages)?, stored);
    Ok(())
}

#[test]
fn a_publisher_gives_up_when_the_server_stays_away_and_says_how_many_are_stored() -> Result<()> {
    let mut server = Server::start()?;
    let mut publisher = publisher(&server, "--count 10000000 --storage file --patience 3s")?;
    assert!(publisher.wait_for(|lines| lines.len() > 1_000));
    server.kill()?;
    let away = Instant::now();
    let ended = publisher.wait()?;
    assert!(away.elapsed() < Duration::from_secs(10));
    assert_eq!(ended.code(), Some(1));
    let stored = ids(&ended.stdout).len();
    let last = ended.stderr.last().context("no error")?;
    assert!(
        last.contains(&format!("{stored} orders are stored")) && last.contains(&server.url()),
        "{last}"
    );
    Ok(())
}

#[test]
fn orders_in_flight_share_a_round_trip() -> Result<()> {
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    link.delay(Duration::from_millis(20));
    let publish = |in_flight: &str| -> Result<Duration> {
        let mut command = server.command(PUBLISHER);
        command.args(["--count", "100", "--in-flight", in_flight]).env("NATS_URL", link.url());
        let start = Instant::now();
        ensure!(Program::spawn(&mut command)?.wait()?.success(), "{in_flight} in flight failed");
        Ok(start.elapsed())
    };
    let (one, many) = (publish("1")?, publish("256")?);
    note(&format!("100 orders at a round trip of 40 ms: {one:.1?}, 256 in flight {many:.1?}"))?;
    ensure!(one > Duration::from_secs(4), "{one:?}");
    ensure!(many < one / 2, "{many:?} in place of {one:?}");
    Ok(())
}

#[test]
fn a_publisher_stopped_with_orders_in_flight_says_how_many_may_be_stored() -> Result<()> {
    let mut server = Server::start()?;
    let mut command = server.command(PUBLISHER);
    command.args(["--count", "100000000", "--storage", "file"]).env("RUST_LOG", "debug");
    let mut publisher = Program::spawn(&mut command)?;
    assert!(publisher.wait_for(|lines| lines.len() > 1_000));
    server.kill()?;
    // From then on the orders in flight are those that it would send again.
    publisher.expect_stderr("256 messages are not acknowledged")?;
    let told = Instant::now();
    publisher.signal(Signal::INT)?;
    let ended = publisher.wait()?;
    assert!(told.elapsed() < Duration::from_secs(5));
    assert_eq!(ended.code(), Some(1));
    let (stored, last) = (ids(&ended.stdout).len(), ended.stderr.last().context("no line")?);
    let expected =
        format!("error: {stored} orders are stored on {}, 256 more may be", server.url());
    assert!(last.starts_with(&expected), "{last}");
    Ok(())
}

#[test]
fn a_consumer_stops_in_time_while_the_server_is_away() -> Result<()> {
    let mut server = Server::start()?;
    let _publisher = publisher(&server, "--count 100000000 --quiet")?;
    let mut consumer = consumer(&server, "")?;
    assert!(consumer.wait_for(|lines| lines.len() > 1_000));
    server.kill()?;
    consumer.expect_stderr("lost the connection")?;
    let told = Instant::now();
    let ended = consumer.stop()?;
    assert!(told.elapsed() < Duration::from_secs(5));
    // Whether an acknowledgement was on its way, is a matter of luck.
    let unconfirmed =
        ended.stderr.iter().any(|line| line.contains("these messages may come again"));
    assert_eq!(ended.code(), Some(i32::from(unconfirmed)), "{:?}", ended.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_whose_server_died_during_its_work_does_not_wait_for_the_next_order()
-> Result<()> {
    let mut server = Server::start()?;
    publisher(&server, "--count 1")?.wait()?;
    let client = async_nats::connect(server.url()).await?;
    let mut reports = client.subscribe("$JS.ACK.>").await?;
    client.flush().await?;
    let mut consumer = consumer(&server, "--work 3s")?;
    reports.next().await.context("the subscription ended")?;
    server.kill()?;
    assert!(consumer.wait_for(|lines| lines.len() == 2));
    // Time in which it would ask for the next order. Stopped before that, it has nothing to wait for.
    sleep(Duration::from_millis(200)).await;
    let told = Instant::now();
    let ended = consumer.stop()?;
    ensure!(ended.code() == Some(1), "{ended:?}");
    let last = ended.stderr.last().context("no line")?;
    ensure!(last.contains("1 acknowledgements: these messages may come again"), "{last}");
    // 1.5 s for the acknowledgement, and not up to two more for an order that cannot come.
    ensure!(told.elapsed() < Duration::from_millis(2_800), "it took {:?}", told.elapsed());
    Ok(())
}

#[test]
fn a_closed_pipe_ends_a_consumer_quietly() -> Result<()> {
    let server = Server::start()?;
    publisher(&server, "--count 5000 --quiet")?.wait()?;
    let mut shell = server.command("/bin/sh");
    shell.args(["-c", "\"$0\" | head -1"]).arg(CONSUMER);
    let ended = Program::spawn(&mut shell)?.wait()?;
    assert_eq!(ended.stdout.len(), 1);
    assert_eq!(ended.stderr, [""; 0]);
    Ok(())
}
