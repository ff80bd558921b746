//! The servers and their client against a real server.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{FutureExt, StreamExt};
use testkit::{Ended, Link, Program, Server, Signal};

const CLIENT: &str = env!("CARGO_BIN_EXE_math-client");
const SERVER: &str = env!("CARGO_BIN_EXE_math-server");
const SERVICE: &str = env!("CARGO_BIN_EXE_math-service");
/// What holds for one holds for the other.
const BOTH: [&str; 2] = [SERVER, SERVICE];
const SUBJECT: &str = "math.sum";
/// Longer than any reply takes on a busy machine.
const LONG: &str = "1m";

/// Starts a server, and waits until nats-server knows its subscription: only then it prints a line.
fn start(command: &mut Command) -> Result<Program> {
    let mut program = Program::spawn(command)?;
    program.expect("waiting for requests on math.sum")?;
    Ok(program)
}

/// Starts a program of the test's own in the place of a server: it gets the requests.
async fn stand_in(server: &Server) -> Result<(async_nats::Client, async_nats::Subscriber)> {
    let nats = async_nats::connect(server.url()).await?;
    let requests = nats.subscribe(SUBJECT).await?;
    server.wait_for_subscriptions(SUBJECT, 1)?;
    Ok((nats, requests))
}

fn ask(server: &Server, args: &[&str]) -> Result<Ended> {
    Program::spawn(server.command(CLIENT).args(args))?.wait()
}

/// Runs it, expects one line on stderr, and returns that.
fn fails(server: &Server, args: &[&str]) -> Result<String> {
    let ended = ask(server, args)?;
    ensure!(ended.code() == Some(1), "{:?}", ended.status);
    ensure!(ended.stderr.len() == 1, "{:?}", ended.stderr);
    let line = ended.stderr[0].clone();
    ensure!(line.contains(&server.url()), "where? {line}");
    Ok(line)
}

/// Expects the answer of a server in good health.
fn works(server: &Server) -> Result<()> {
    let ended = ask(server, &["17", "25"])?;
    ensure!(ended.stdout == ["17 + 25 = 42"], "{ended:?}");
    Ok(())
}

/// The number before `word` in a line.
fn number(line: &str, word: &str) -> Result<u64> {
    let number = line.split(word).next().context("nothing before it")?;
    let number = number.split_whitespace().last().context("no number")?;
    Ok(number.parse()?)
}

/// What a server says it took when it is stopped.
fn stop(program: &mut Program) -> Result<u64> {
    let ended = program.stop()?;
    ensure!(ended.success() && ended.stderr.is_empty(), "{ended:?}");
    number(ended.stdout.last().context("nothing said")?, " requests")
}

#[test]
fn a_request_gets_its_reply() -> Result<()> {
    for bin in BOTH {
        let server = Server::start()?;
        let mut math = start(&mut server.command(bin))?;
        let ended = ask(&server, &["17", "25"])?;
        assert!(ended.success());
        assert_eq!(ended.stdout, ["17 + 25 = 42"]);
        assert_eq!(ended.stderr, [""; 0]);
        assert_eq!(stop(&mut math)?, 1);
    }
    Ok(())
}

#[test]
fn numbers_are_taken_as_typed() -> Result<()> {
    let server = Server::start()?;
    let _math = start(&mut server.command(SERVER))?;
    for (x, y, sum) in [
        ("-5", "3", "-2"),
        ("3", "-5", "-2"),
        ("-9223372036854775808", "9223372036854775807", "-1"),
        ("9007199254740993", "0", "9007199254740993"),
    ] {
        let ended = ask(&server, &[x, y])?;
        assert_eq!(ended.stdout, [format!("{x} + {y} = {sum}")]);
    }
    for args in [
        &["17"][..],
        &["1.5", "2"],
        &["9223372036854775808", "1"],
        &["1", "2", "3"],
        &["--concurrency", "0"],
        &["--timeout", "soon"],
    ] {
        assert_eq!(ask(&server, args)?.code(), Some(2), "{args:?}");
    }
    Ok(())
}

#[test]
fn without_numbers_two_are_drawn() -> Result<()> {
    let server = Server::start()?;
    let _math = start(&mut server.command(SERVER))?;
    let ended = ask(&server, &["--count", "20"])?;
    let (summary, lines) = ended.stdout.split_last().context("nothing printed")?;
    assert!(summary.starts_with("20 requests in "), "{summary}");
    assert_eq!(lines.len(), 20);
    assert!(lines.iter().any(|line| *line != lines[0]));
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let [x, "+", y, "=", sum] = words[..] else {
            anyhow::bail!("{line}");
        };
        let (x, y): (i64, i64) = (x.parse()?, y.parse()?);
        assert_eq!(x + y, sum.parse::<i64>()?);
    }
    Ok(())
}

#[test]
fn many_requests_end_with_a_summary() -> Result<()> {
    for bin in BOTH {
        let server = Server::start()?;
        let _math = start(&mut server.command(bin))?;
        let args = ["--count", "5000", "--concurrency", "64", "--quiet"];
        let ended = ask(&server, &args)?;
        assert!(ended.success());
        assert_eq!(ended.stderr, [""; 0]);
        let [line] = &ended.stdout[..] else {
            anyhow::bail!("{:?}", ended.stdout);
        };
        assert_eq!(number(line, " requests in ")?, 5000);
        assert!(number(line, "/s)").is_err(), "the rate is in brackets");
        let p50 = number(line, " µs, p99")?;
        let p99 = number(line, " µs, p99").and_then(|_| {
            let tail = line.rsplit("p99 ").next().context("no p99")?;
            number(tail, " µs")
        })?;
        assert!(0 < p50 && p50 <= p99, "{line}");
    }
    Ok(())
}

#[test]
fn without_a_server_the_client_knows_at_once() -> Result<()> {
    let server = Server::start()?;
    let begun = Instant::now();
    let line = fails(&server, &["1", "2", "--timeout", "1m"])?;
    assert!(line.contains("no server has subscribed to math.sum"), "{line}");
    assert!(line.contains("cargo run -p rpc --bin math-server"));
    assert!(begun.elapsed() < Duration::from_secs(5));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_reply_costs_a_time_out() -> Result<()> {
    let server = Server::start()?;
    let _silent = stand_in(&server).await?;
    let begun = Instant::now();
    let line = fails(&server, &["1", "2", "--timeout", "300ms"])?;
    assert!(line.contains("no reply in time"), "{line}");
    assert!(line.contains("--timeout"));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    Ok(())
}

#[test]
fn a_refused_request_says_why() -> Result<()> {
    for bin in BOTH {
        let server = Server::start()?;
        let _math = start(&mut server.command(bin))?;
        let line = fails(&server, &["9223372036854775807", "1"])?;
        assert!(line.contains("the server refuses, 422"), "{line}");
        assert!(line.contains("does not fit into 64 bits"), "{line}");
        works(&server)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_is_no_sum_is_an_error() -> Result<()> {
    let server = Server::start()?;
    let (nats, mut requests) = stand_in(&server).await?;
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            if let Some(reply) = request.reply {
                let _ = nats.publish(reply, "forty-two".into()).await;
            }
        }
    });
    let line = fails(&server, &["1", "2"])?;
    assert!(line.contains("the reply is not a sum"), "{line}");
    Ok(())
}

#[test]
fn failures_among_many_are_counted() -> Result<()> {
    let server = Server::start()?;
    let ended = ask(&server, &["--count", "50", "--concurrency", "8"])?;
    assert_eq!(ended.code(), Some(1));
    assert_eq!(ended.stdout.len(), 1, "{:?}", ended.stdout);
    assert!(ended.stdout[0].starts_with("0 requests in "));
    assert_eq!(ended.stderr.len(), 1, "{:?}", ended.stderr);
    assert!(ended.stderr[0].contains("50 of 50 requests failed"));
    assert!(ended.stderr[0].contains("no server has subscribed to math.sum"));
    Ok(())
}

/// The code and the text of an error reply; neither where it is an answer.
async fn refusal(client: &async_nats::Client, payload: &[u8]) -> Result<Option<(String, String)>> {
    let reply = client.request(SUBJECT, payload.to_vec().into()).await?;
    let Some(headers) = reply.headers else {
        return Ok(None);
    };
    ensure!(reply.payload.is_empty());
    let get = |name: &str| Some(headers.get(name)?.as_str().to_owned());
    let code = get("Nats-Service-Error-Code").context("no code")?;
    Ok(Some((code, get("Nats-Service-Error").context("no text")?)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_gets_an_error_reply() -> Result<()> {
    for bin in BOTH {
        let server = Server::start()?;
        let _math = start(&mut server.command(bin))?;
        let client = async_nats::connect(server.url()).await?;
        for (payload, code, text) in [
            (&b""[..], "400", "not a JSON object"),
            (b"[17, 25]", "400", "not a JSON object"),
            (br#"{"x": 17}"#, "400", "missing field `y`"),
            (br#"{"x": 17.0, "y": 25}"#, "400", "floating point"),
            (br#"{"x": "a\r\nb\u00e9", "y": 25}"#, "400", "string"),
            (b"{\xff\xfe", "400", "column"),
            (br#"{"x": 9223372036854775807, "y": 1}"#, "422", "64 bits"),
        ] {
            let found = refusal(&client, payload).await?;
            let (found_code, found_text) = found.context("an answer in place of an error")?;
            assert_eq!(found_code, code, "{found_text}");
            assert!(found_text.contains(text), "{found_text}");
        }
        let answer = refusal(&client, br#" {"y": 25, "x": 17, "z": 0} "#).await?;
        assert_eq!(answer, None);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_malformed_requests_do_no_harm() -> Result<()> {
    for bin in BOTH {
        let server = Server::start()?;
        let mut math = start(&mut server.command(bin))?;
        let client = async_nats::connect(server.url()).await?;
        let inbox = client.new_inbox();
        let mut refusals = client.subscribe(inbox.clone()).await?;
        for n in 0..10_000_u32 {
            let garbage = n.to_le_bytes().repeat(1 + n as usize % 20);
            if n % 10 == 0 {
                client.publish(SUBJECT, garbage.into()).await?;
            } else {
                client.publish_with_reply(SUBJECT, inbox.clone(), garbage.into()).await?;
            }
        }
        for _ in 0..9_000 {
            let refused = refusals.next().await;
            let headers = refused.and_then(|reply| reply.headers);
            let headers = headers.context("an answer in place of an error")?;
            assert!(headers.get("Nats-Service-Error-Code").is_some());
        }
        works(&server)?;
        // The others named no reply subject: they are not requests.
        assert_eq!(stop(&mut math)?, 9_001);
    }
    Ok(())
}

/// Speaks the protocol itself: no client library would send such things.
fn send_raw(server: &Server, lines: &[String]) -> Result<()> {
    let mut socket = TcpStream::connect(("127.0.0.1", server.port()))?;
    socket.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n")?;
    for line in lines {
        socket.write_all(line.as_bytes())?;
        socket.write_all(b"\r\n")?;
    }
    socket.write_all(b"PING\r\n")?;
    let mut answers = BufReader::new(socket).lines();
    answers
        .find(|line| line.as_ref().is_ok_and(|line| line == "PONG"))
        .context("the server hung up")??;
    Ok(())
}

#[test]
fn hostile_reply_subjects_are_harmless() -> Result<()> {
    for bin in BOTH {
        let server = Server::start()?;
        let mut math = start(&mut server.command(bin))?;
        let long = "x".repeat(3000);
        let subjects = [
            SUBJECT,
            "a..b",
            ".",
            ".a",
            "a.",
            ">",
            "*",
            "a.*.b",
            "$SRV.PING",
            "$SYS.REQ.USER.INFO",
            "$JS.API.INFO",
            "\u{1b}[2J",
            "\u{e9}\u{1f600}",
            &long,
        ];
        let request = r#"{"x": 17, "y": 25}"#;
        let lines = subjects
            .map(|subject| format!("PUB {SUBJECT} {subject} {}\r\n{request}", request.len()));
        send_raw(&server, &lines)?;
        works(&server)?;
        assert!(math.is_running()?);
        math.signal(Signal::TERM)?;
        let ended = math.wait()?;
        assert!(ended.success());
        for line in &ended.stderr {
            assert!(!line.contains('\u{1b}'), "{line:?}");
        }
    }
    Ok(())
}

#[test]
fn a_reply_that_is_denied_stops_no_server() -> Result<()> {
    let users = r#"authorization { users [
        { user: math, password: a, permissions: {
            publish: ["_INBOX.>"], subscribe: ["math.sum math_servers", "$SRV.>", "_INBOX.>"] } }
        { user: client, password: b }
    ] }"#;
    for bin in BOTH {
        let server = Server::options().config(users).start()?;
        let url = |user: &str| server.url().replace("//", &format!("//{user}@"));
        let mut math = start(server.command(bin).env("NATS_URL", url("math:a")))?;
        let mut socket = TcpStream::connect(("127.0.0.1", server.port()))?;
        socket.write_all(
            b"CONNECT {\"verbose\":false,\"user\":\"client\",\"pass\":\"b\"}\r\nPUB math.sum secret 2\r\n{}\r\n",
        )?;
        math.expect_stderr("denied it")?;
        let mut client = server.command(CLIENT);
        client.args(["17", "25"]).env("NATS_URL", url("client:b"));
        assert_eq!(Program::spawn(&mut client)?.wait()?.stdout, ["17 + 25 = 42"]);
        assert!(math.stop()?.success());
    }
    Ok(())
}

#[test]
fn a_client_that_may_not_ask_says_what_was_denied() -> Result<()> {
    let users = r#"authorization { users [
        { user: client, password: b, permissions: { publish: ["other"] } }
    ] }"#;
    let server = Server::options().config(users).start()?;
    for count in ["1", "2"] {
        let mut command = server.command(CLIENT);
        command.args(["17", "25", "--timeout", LONG, "--count", count]);
        command.env("NATS_USER", "client").env("NATS_PASSWORD", "b");
        let ended = Program::spawn(&mut command)?.wait()?;
        assert_eq!(ended.code(), Some(1));
        let [line] = &ended.stderr[..] else {
            anyhow::bail!("{ended:?}");
        };
        assert!(line.contains("denied it") && line.contains(SUBJECT), "{line}");
        assert!(!line.contains("may have been handled"), "{line}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_can_be_found_and_watched() -> Result<()> {
    let server = Server::start()?;
    let mut first = start(&mut server.command(SERVICE))?;
    let client = async_nats::connect(server.url()).await?;
    let request = async |subject: String| client.request(subject, "".into()).await;

    let pong = request("$SRV.PING".into()).await?;
    let pong: async_nats::service::PingResponse = serde_json::from_slice(&pong.payload)?;
    assert_eq!(pong.kind, "io.nats.micro.v1.ping_response");
    assert_eq!((&*pong.name, &*pong.version), ("math", "0.1.0"));
    assert!(!pong.id.is_empty());

    for whom in ["", ".math", &format!(".math.{}", pong.id)] {
        let info = request(format!("$SRV.INFO{whom}")).await?;
        let info: async_nats::service::Info = serde_json::from_slice(&info.payload)?;
        assert_eq!(info.kind, "io.nats.micro.v1.info_response");
        assert_eq!((&*info.name, &info.id), ("math", &pong.id));
        let [endpoint] = &info.endpoints[..] else {
            anyhow::bail!("{info:?}");
        };
        assert_eq!(endpoint.name, "sum");
        assert_eq!(endpoint.subject, SUBJECT);
        assert_eq!(endpoint.queue_group, "math_servers");
    }
    assert!(request("$SRV.INFO.other".into()).await.is_err());

    works(&server)?;
    assert!(!ask(&server, &["9223372036854775807", "1"])?.success());
    works(&server)?;
    let stats = request("$SRV.STATS.math".into()).await?;
    let stats: serde_json::Value = serde_json::from_slice(&stats.payload)?;
    assert_eq!(stats["type"], "io.nats.micro.v1.stats_response");
    assert!(stats["metadata"].is_object(), "{stats}");
    assert!(stats["started"].as_str().is_some_and(|at| at.contains('T')));
    let endpoint = &stats["endpoints"][0];
    assert_eq!(endpoint["name"], "sum");
    assert_eq!(endpoint["subject"], SUBJECT);
    assert_eq!(endpoint["queue_group"], "math_servers");
    assert_eq!(endpoint["num_requests"], 3);
    assert_eq!(endpoint["num_errors"], 1);
    let error = endpoint["last_error"].as_str().context("no error")?;
    assert!(error.starts_with("422:"), "{error}");
    let total = endpoint["processing_time"].as_u64().context("no time")?;
    let average = endpoint["average_processing_time"].as_u64();
    assert_eq!(average, Some(total / 3));

    // Each instance answers.
    let _second = start(&mut server.command(SERVICE))?;
    let inbox = client.new_inbox();
    let mut pongs = client.subscribe(inbox.clone()).await?;
    client.publish_with_reply("$SRV.PING.math", inbox, "".into()).await?;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let pong = pongs.next().await;
        let pong = serde_json::from_slice::<serde_json::Value>(&pong.context("none")?.payload)?;
        ids.push(pong["id"].to_string());
    }
    assert_ne!(ids[0], ids[1]);
    assert_eq!(stop(&mut first)?, 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reply_goes_to_a_subject_of_nats_server() -> Result<()> {
    for bin in BOTH {
        let server = Server::start()?;
        let mut math = start(&mut server.command(bin))?;
        let nats = async_nats::connect(server.url()).await?;
        let mut refused = nats.subscribe("$JS.API.test").await?;
        let described = ["$SRV.PING", "$SRV.INFO", "$SRV.STATS"];
        let described = described.iter().filter(|_| bin == SERVICE);
        for &subject in described.chain(&[SUBJECT]) {
            for payload in [r#"{"x":17,"y":25}"#, "a bad request"] {
                nats.publish_with_reply(subject, "$JS.API.test", payload.into()).await?;
            }
        }
        // Handled after them, and its reply would come after theirs.
        let reply = nats.request(SUBJECT, r#"{"x":17,"y":25}"#.into()).await?;
        assert_eq!(reply.payload, r#"{"result":42}"#);
        assert!(refused.next().now_or_never().is_none());
        math.expect_stderr("no reply goes to $JS.API.test")?;
        assert!(math.stop()?.success());
    }
    Ok(())
}

#[test]
fn servers_are_back_within_a_second_of_the_server() -> Result<()> {
    for bin in BOTH {
        let mut server = Server::start()?;
        let begun = Instant::now();
        let mut math = start(&mut server.command(bin))?;
        server.wait_for_subscriptions(SUBJECT, 1)?;
        // A busy machine takes longer for everything.
        let baseline = begun.elapsed();
        works(&server)?;
        server.kill()?;
        math.expect_stderr("lost the connection")?;
        server.restart()?;
        let begun = Instant::now();
        server.wait_for_subscriptions(SUBJECT, 1)?;
        let back = begun.elapsed();
        assert!(back < Duration::from_secs(1) + 5 * baseline, "{back:?}, {baseline:?}");
        works(&server)?;
        math.expect_stderr("again")?;
        let ended = math.stop()?;
        assert!(ended.success());
        assert_eq!(ended.stderr.len(), 2, "{:?}", ended.stderr);
    }
    Ok(())
}

/// A client that goes on until it is stopped, and has had replies already.
fn start_client(server: &Server, args: &[&str]) -> Result<Program> {
    let mut command = server.command(CLIENT);
    command.args(["17", "25", "--quiet", "--count", "1000000000"]);
    let client = Program::spawn(command.args(["--concurrency", "64"]).args(args))?;
    requests_end(server)?;
    Ok(client)
}

/// How many requests `math-client` has sent on its present connection.
fn asked(connz: &serde_json::Value) -> u64 {
    let connections = connz["connections"].as_array().into_iter().flatten();
    let mut clients = connections.filter(|connection| connection["name"] == "math-client");
    clients.find_map(|client| client["in_msgs"].as_u64()).unwrap_or_default()
}

/// Waits until `math-client` has sent many requests on its present connection. 64 are in flight, so
/// most of them have ended, one way or the other.
fn requests_end(server: &Server) -> Result<()> {
    server.monitor_until("/connz", |connz| asked(connz) > 1_000)?;
    Ok(())
}

/// Stops a client whose connection was lost at some time, and expects that it cost no more requests
/// than were in flight then.
fn stop_after_outage(client: &mut Program) -> Result<()> {
    let ended = client.stop()?;
    let summary = ended.stdout.last().context("no summary")?;
    ensure!(number(summary, " requests in ")? > 0, "{summary}");
    // None was in flight if nats-server died at a moment when the client had all its replies.
    if !ended.success() {
        let report = ended.stderr.last().context("no report")?;
        let (head, why) = report.split_once("failed: ").context("no reason")?;
        ensure!(number(head, " of ")? <= 64, "{report}");
        ensure!(why.starts_with("the connection was lost"), "{report}");
        ensure!(!why.contains("no responders"), "{report}");
    }
    Ok(())
}

#[test]
fn requests_in_flight_when_the_server_dies_end_in_time() -> Result<()> {
    let mut server = Server::start()?;
    let _math = start(&mut server.command(SERVER))?;
    // No request waits for that long: a reply whose connection is lost cannot come.
    let mut client = start_client(&server, &["--timeout", "1h"])?;
    server.kill()?;
    server.restart()?;
    requests_end(&server)?;
    stop_after_outage(&mut client)
}

#[test]
fn a_client_that_is_back_before_the_servers_waits_for_them() -> Result<()> {
    for bin in BOTH {
        let mut server = Server::start()?;
        let link = Link::to(server.port())?;
        let _math = start(server.command(bin).env("NATS_URL", link.url()))?;
        let mut client = start_client(&server, &["--timeout", LONG])?;
        server.kill()?;
        // The server cannot come back before the client.
        link.cut();
        server.restart()?;
        // nats-server answers each of these that nobody has subscribed.
        requests_end(&server)?;
        server.wait_for_subscriptions(SUBJECT, 0)?;
        link.heal();
        server.wait_for_subscriptions(SUBJECT, 1)?;
        stop_after_outage(&mut client)?;
    }
    Ok(())
}

#[test]
fn a_client_whose_servers_have_gone_for_good_says_so() -> Result<()> {
    let server = Server::start()?;
    let mut math = start(&mut server.command(SERVER))?;
    let mut command = server.command(CLIENT);
    command.args(["--count", "1000000000", "--timeout", "100ms"]);
    let mut client = Program::spawn(&mut command)?;
    client.expect(" + ")?;
    math.stop()?;
    // It waits for a server until the time-out, once. The next requests fail at once: if each
    // waited, 5,000 would take longer than this test does.
    let before = asked(&server.monitor("/connz")?);
    server.monitor_until("/connz", |connz| asked(connz) > before + 5_000)?;
    let ended = client.stop()?;
    assert_eq!(ended.code(), Some(1));
    let report = ended.stderr.last().context("no report")?;
    assert!(report.contains("no server has subscribed to math.sum"), "{report}");
    Ok(())
}

#[test]
fn servers_stop_while_the_server_is_away() -> Result<()> {
    let mut server = Server::start()?;
    let mut both = [start(&mut server.command(SERVER))?, start(&mut server.command(SERVICE))?];
    server.kill()?;
    for math in &mut both {
        math.expect_stderr("lost the connection")?;
    }
    let begun = Instant::now();
    for math in &mut both {
        math.signal(Signal::TERM)?;
    }
    for math in &mut both {
        assert!(math.wait()?.success());
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    Ok(())
}

/// How many messages nats-server has written to the sockets of its clients.
fn handed_over(connz: &serde_json::Value) -> u64 {
    let connections = connz["connections"].as_array().into_iter().flatten();
    let written = connections.filter(|connection| connection["pending_bytes"] == 0);
    written.filter_map(|connection| connection["out_msgs"].as_u64()).sum()
}

/// Waits until SIGSTOP has taken effect. Before that, the program can still be told of the first
/// requests, and then answers some before it notices that the connection is lost.
fn wait_until_stopped(id: u32) {
    while let Ok(stat) = std::fs::read_to_string(format!("/proc/{id}/stat"))
        && !stat.contains(") T ")
    {
        std::thread::yield_now();
    }
}

/// Waits until the end of a connection has arrived, behind the requests: a busy system delivers it
/// a moment after nats-server is gone. `port` is the program's own.
fn wait_until_closed(port: &serde_json::Value) {
    const CLOSE_WAIT: &str = "08";
    let port = format!(":{:04X}", port.as_u64().unwrap_or_default());
    let is_closed = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.get(1).is_some_and(|local| local.ends_with(&port)) && fields[3] == CLOSE_WAIT
    };
    while let Ok(sockets) = std::fs::read_to_string("/proc/net/tcp")
        && !sockets.lines().any(is_closed)
    {
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_taken_and_not_answered_are_reported() -> Result<()> {
    // More than a server handles at once.
    const REQUESTS: u64 = 300;
    for bin in BOTH {
        let mut server = Server::start()?;
        let mut math = start(&mut server.command(bin))?;
        math.signal(Signal::STOP)?;
        wait_until_stopped(math.id());
        let connz = server.monitor("/connz")?;
        let (port, before) = (&connz["connections"][0]["port"], handed_over(&connz));
        let nats = async_nats::connect(server.url()).await?;
        for _ in 0..REQUESTS {
            let request = r#"{"x":17,"y":25}"#.into();
            nats.publish_with_reply(SUBJECT, nats.new_inbox(), request).await?;
        }
        nats.flush().await?;
        // Then they wait in the program's socket.
        server.monitor_until("/connz", |connz| handed_over(connz) == before + REQUESTS)?;
        server.kill()?;
        wait_until_closed(port);
        let begun = Instant::now();
        math.signal(Signal::TERM)?;
        math.signal(Signal::CONT)?;
        let ended = math.wait()?;
        assert_eq!(ended.code(), Some(1));
        assert!(begun.elapsed() < Duration::from_secs(5));
        let report = ended.stderr.last().context("no report")?;
        let expected = format!("{REQUESTS} requests were taken and not answered");
        assert!(report.contains(&expected), "{report}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_slows_and_a_cut_link_times_out() -> Result<()> {
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    link.delay(Duration::from_millis(20));
    let (nats, mut requests) = stand_in(&server).await?;
    let mut command = server.command(CLIENT);
    command.args(["17", "25", "--count", "3", "--timeout", "2s"]);
    let mut client = Program::spawn(command.env("NATS_URL", link.url()))?;
    for n in 1..=3 {
        let request = requests.next().await.context("the connection is closed")?;
        if n == 3 {
            link.cut();
        }
        let reply = request.reply.context("a request names a reply subject")?;
        nats.publish(reply, r#"{"result":42}"#.into()).await?;
    }
    let ended = client.wait()?;
    assert_eq!(ended.code(), Some(1));
    assert_eq!(ended.stdout[..2], ["17 + 25 = 42"; 2]);
    let summary = ended.stdout.last().context("no summary")?;
    assert!(number(summary, " µs, p99")? >= 40_000, "{summary}");
    let last = ended.stderr.last().context("no error")?;
    let expected = "1 of 3 requests failed: no reply in time";
    assert!(last.contains(expected), "{last}");
    Ok(())
}

#[test]
fn a_client_that_is_stopped_takes_its_replies_first() -> Result<()> {
    let server = Server::start()?;
    let mut math = start(&mut server.command(SERVER))?;
    let mut client = start_client(&server, &["--timeout", LONG])?;
    let ended = client.stop()?;
    assert!(ended.success());
    assert_eq!(ended.stderr, [""; 0]);
    let summary = ended.stdout.last().context("no summary")?;
    assert_eq!(stop(&mut math)?, number(summary, " requests in ")?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_stopped_without_its_reply_says_so() -> Result<()> {
    let server = Server::start()?;
    let (_nats, mut requests) = stand_in(&server).await?;
    for count in ["1", "2"] {
        let mut command = server.command(CLIENT);
        command.args(["17", "25", "--timeout", LONG, "--count", count]);
        let mut client = Program::spawn(&mut command)?;
        requests.next().await;
        let begun = Instant::now();
        let ended = client.stop()?;
        assert_eq!(ended.code(), Some(1));
        assert!(begun.elapsed() < Duration::from_secs(5));
        let [line] = &ended.stderr[..] else {
            anyhow::bail!("{ended:?}");
        };
        assert!(line.contains("stopped before a reply came"), "{line}");
    }
    Ok(())
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_client_quietly() -> Result<()> {
    let server = Server::start()?;
    let _math = start(&mut server.command(SERVER))?;
    let pipe = r#"("$0" 1 2 --count 1000000; echo "exit $?" >&2) | head -1"#;
    let ended = Program::spawn(server.command("sh").args(["-c", pipe, CLIENT]))?.wait()?;
    assert_eq!(ended.stdout, ["1 + 2 = 3"]);
    assert_eq!(ended.stderr, ["exit 0"]);
    Ok(())
}
