//! What the first versions lose, and the services do not: each loss that the README states.

use std::io::{Write, stderr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::held::{self, HELD, Hold};
use anyhow::{Result, ensure};
use testkit::{Ended, Program, Server, Signal, example};

const CLIENT: &str = env!("CARGO_BIN_EXE_math-client");
const SERVICES: [&str; 2] = [env!("CARGO_BIN_EXE_math-server"), env!("CARGO_BIN_EXE_math-service")];
const SUBJECT: &str = "math.sum";

fn start(server: &Server, program: impl Into<PathBuf>) -> Result<Program> {
    let mut program = Program::spawn(&mut server.command(program))?;
    program.expect("waiting for requests on math.sum")?;
    Ok(program)
}

fn run(server: &Server, program: impl Into<PathBuf>, args: &[&str]) -> Result<Ended> {
    Program::spawn(server.command(program).args(args))?.wait()
}

/// Shows a figure that the README states: `cargo test -- --nocapture`.
fn measured(figure: &str) -> Result<()> {
    writeln!(stderr(), "measured: {figure}")?;
    Ok(())
}

#[test]
fn first_versions_and_services_understand_each_other() -> Result<()> {
    for answering in [
        example("first-math-server"),
        example("service-api"),
        SERVICES[0].into(),
        SERVICES[1].into(),
    ] {
        let server = Server::start()?;
        let _math = start(&server, answering)?;
        server.wait_for_subscriptions(SUBJECT, 1)?;
        for asking in [example("first-math-client"), CLIENT.into()] {
            let ended = run(&server, asking, &["17", "25"])?;
            assert!(ended.success());
            assert_eq!(ended.stdout, ["17 + 25 = 42"]);
        }
    }
    Ok(())
}

#[test]
fn all_four_share_one_queue_group() -> Result<()> {
    let server = Server::start()?;
    let _servers = [
        start(&server, example("first-math-server"))?,
        start(&server, example("service-api"))?,
        start(&server, SERVICES[0])?,
        start(&server, SERVICES[1])?,
    ];
    server.wait_for_subscriptions(SUBJECT, 4)?;
    let args = ["17", "25", "--count", "1000", "--quiet"];
    assert!(run(&server, CLIENT, &args)?.success());
    let connz = server.monitor("/connz?subs=1")?;
    let connections = connz["connections"].as_array().into_iter().flatten();
    let replies: Vec<u64> = connections
        .filter(|connection| connection["subscriptions_list"].to_string().contains(SUBJECT))
        .filter_map(|connection| connection["in_msgs"].as_u64())
        .collect();
    assert_eq!(replies.len(), 4);
    assert!(replies.iter().all(|&replies| replies > 0), "{replies:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_ends_the_first_server() -> Result<()> {
    let server = Server::start()?;
    let mut group = [
        start(&server, example("first-math-server"))?,
        start(&server, example("first-math-server"))?,
        start(&server, example("first-math-server"))?,
    ];
    let nats = async_nats::connect(server.url()).await?;
    for left in (0..group.len()).rev() {
        server.wait_for_subscriptions(SUBJECT, left + 1)?;
        nats.publish(SUBJECT, "17 25".into()).await?;
    }
    for math in &mut group {
        let ended = math.wait()?;
        ensure!(ended.code() == Some(1), "{ended:?}");
    }
    server.wait_for_subscriptions(SUBJECT, 0)?;
    let request = nats.request(SUBJECT, r#"{"x":17,"y":25}"#.into()).await;
    let error = request.err().map(|error| error.kind());
    assert_eq!(error, Some(async_nats::RequestErrorKind::NoResponders));
    measured("3 bad requests ended 3 of 3 first-math-servers")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sum_that_does_not_fit_ends_the_first_server_or_is_wrong() -> Result<()> {
    let server = Server::start()?;
    let mut math = start(&server, example("first-math-server"))?;
    server.wait_for_subscriptions(SUBJECT, 1)?;
    let nats = async_nats::connect(server.url()).await?;
    let request = r#"{"x":9223372036854775807,"y":1}"#;
    if cfg!(debug_assertions) {
        nats.publish(SUBJECT, request.into()).await?;
        assert!(math.wait()?.stderr.iter().any(|line| line.contains("overflow")));
    } else {
        let reply = nats.request(SUBJECT, request.into()).await?;
        assert_eq!(reply.payload, r#"{"result":-9223372036854775808}"#);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_costs_the_first_server_every_request_that_it_holds() -> Result<()> {
    let program = example("first-math-server");
    let replies = held::replies(program, Hold::Process, Signal::INT).await?;
    measured(&format!(
        "first-math-server stopped with {HELD} requests in hand: {} lost",
        HELD - replies
    ))?;
    assert_eq!(replies, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_the_services_api_costs_every_request_on_its_way() -> Result<()> {
    let program = example("service-api");
    let replies = held::replies(program, Hold::NetworkUntilTheEnd, Signal::INT).await?;
    measured(&format!(
        "service-api stopped with {HELD} requests on their way: {} lost",
        HELD - replies
    ))?;
    assert_eq!(replies, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_service_answers_every_request_that_it_holds() -> Result<()> {
    for program in SERVICES {
        for hold in [Hold::Process, Hold::NetworkUntilTheSignal] {
            for signal in [Signal::INT, Signal::TERM] {
                let replies = held::replies(program, hold, signal).await?;
                assert_eq!(replies, HELD, "{program}, {hold:?}, {signal:?}");
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_without_a_reply_subject_ends_the_services_api() -> Result<()> {
    let server = Server::start()?;
    let mut math = start(&server, example("service-api"))?;
    server.wait_for_subscriptions(SUBJECT, 1)?;
    let nats = async_nats::connect(server.url()).await?;
    // A bad request does not: it gets an error reply.
    let reply = nats.request(SUBJECT, "17 25".into()).await?;
    let headers = reply.headers.unwrap_or_default();
    let code = headers.get("Nats-Service-Error-Code");
    assert_eq!(code.map(async_nats::HeaderValue::as_str), Some("400"));
    nats.publish(SUBJECT, r#"{"x":17,"y":25}"#.into()).await?;
    assert_eq!(math.wait()?.code(), Some(1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_can_delete_a_stream_through_the_services_api() -> Result<()> {
    let bad = "17 25";
    for (program, streams) in [(example("service-api"), 0), (SERVICES[0].into(), 1)] {
        let server = Server::start()?;
        let _math = start(&server, program)?;
        server.wait_for_subscriptions(SUBJECT, 1)?;
        let nats = async_nats::connect(server.url()).await?;
        let config = r#"{"name":"orders","subjects":["orders.>"],"storage":"memory"}"#;
        nats.request("$JS.API.STREAM.CREATE.orders", config.into()).await?;
        nats.publish_with_reply(SUBJECT, "$JS.API.STREAM.DELETE.orders", bad.into()).await?;
        // Handled after it.
        nats.request(SUBJECT, bad.into()).await?;
        server.monitor_until("/jsz", |jsz| jsz["streams"] == streams)?;
    }
    Ok(())
}

#[test]
fn the_first_client_cannot_say_why_it_was_refused() -> Result<()> {
    let server = Server::start()?;
    let _math = start(&server, SERVICES[0])?;
    server.wait_for_subscriptions(SUBJECT, 1)?;
    let numbers = ["9223372036854775807", "1"];
    let first = run(&server, example("first-math-client"), &numbers)?;
    assert_eq!(first.code(), Some(1));
    let said = first.stderr.join("\n");
    measured(&format!("first-math-client, refused: {said}"))?;
    assert!(said.contains("EOF while parsing a value"), "{said}");
    assert!(!said.contains("64 bits"), "{said}");
    let service = run(&server, CLIENT, &numbers)?;
    let said = service.stderr.join("\n");
    assert!(said.contains("the sum does not fit into 64 bits"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_client_waits_10_s_for_a_reply_that_cannot_come() -> Result<()> {
    let mut server = Server::start()?;
    let silent = async_nats::connect(server.url()).await?;
    let mut requests = silent.subscribe(SUBJECT).await?;
    silent.flush().await?;
    server.wait_for_subscriptions(SUBJECT, 1)?;
    let begun = Instant::now();
    let mut client = Program::spawn(&mut server.command(example("first-math-client")))?;
    futures::StreamExt::next(&mut requests).await;
    server.kill()?;
    server.restart()?;
    let ended = client.wait()?;
    let waited = begun.elapsed();
    assert_eq!(ended.code(), Some(1));
    let said = ended.stderr.join("\n");
    measured(&format!("first-math-client, connection lost: {waited:.1?}, {said}"))?;
    assert!(said.contains("TimedOut"), "{said}");
    assert!(waited >= Duration::from_secs(10), "{waited:?}");
    Ok(())
}
