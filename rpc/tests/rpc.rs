//! The servers and their client against a real server.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::{Ended, Link, Program, Server, Signal};

const CLIENT: &str = env!("CARGO_BIN_EXE_math-client");
const SERVER: &str = env!("CARGO_BIN_EXE_math-server");
const SERVICE: &str = env!("CARGO_BIN_EXE_math-service");
/// What holds for one holds for the other.
const BOTH: [&str; 2] = [SERVER, SERVICE];
const SUBJECT: &str = "math.sum";

fn start(command: &mut Command) -> Result<Program> {
    let mut program = Program::spawn(command)?;
    program.expect("waiting for requests on math.sum")?;
    Ok(program)
}

/// Starts it as the only one, and waits until nats-server knows of it: the program's own word is
/// that it has said so.
fn start_alone(server: &Server, bin: &str) -> Result<Program> {
    let program = start(&mut server.command(bin))?;
    server.wait_for_subscriptions(SUBJECT, 1)?;
    server.wait_for_subscriptions("$SRV.*", usize::from(bin == SERVICE))?;
    Ok(program)
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
        let mut math = start_alone(&server, bin)?;
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
    let _math = start_alone(&server, SERVER)?;
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
    let _math = start_alone(&server, SERVER)?;
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
        let _math = start_alone(&server, bin)?;
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
fn each_request_goes_to_one_server() -> Result<()> {
    let server = Server::start()?;
    let mut servers = [
        start(&mut server.command(SERVER))?,
        start(&mut server.command(SERVER))?,
        start(&mut server.command(SERVICE))?,
    ];
    server.wait_for_subscriptions(SUBJECT, 3)?;
    let args = ["--count", "1000", "--concurrency", "8", "--quiet"];
    assert!(ask(&server, &args)?.success());
    let mut sum = 0;
    for math in &mut servers {
        let taken = stop(math)?;
        assert!(taken > 0, "the work is shared");
        sum += taken;
    }
    assert_eq!(sum, 1000);
    Ok(())
}

#[test]
fn where_nobody_answers_the_client_knows_at_once() -> Result<()> {
    let server = Server::start()?;
    let begun = Instant::now();
    let line = fails(&server, &["1", "2", "--timeout", "1m"])?;
    assert!(line.contains("nobody answers math.sum"), "{line}");
    assert!(line.contains("cargo run -p rpc --bin math-server"));
    assert!(begun.elapsed() < Duration::from_secs(5));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_reply_costs_a_time_out() -> Result<()> {
    let server = Server::start()?;
    let silent = async_nats::connect(server.url()).await?;
    let _requests = silent.subscribe(SUBJECT).await?;
    silent.flush().await?;
    server.wait_for_subscriptions(SUBJECT, 1)?;
    let begun = Instant::now();
    let line = fails(&server, &["1", "2", "--timeout", "300ms"])?;
    assert!(line.contains("no reply within 300ms"), "{line}");
    assert!(line.contains("--timeout"));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    Ok(())
}

#[test]
fn a_refused_request_says_why() -> Result<()> {
    for bin in BOTH {
        let server = Server::start()?;
        let _math = start_alone(&server, bin)?;
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
    let stranger = async_nats::connect(server.url()).await?;
    let mut requests = stranger.subscribe(SUBJECT).await?;
    stranger.flush().await?;
    let answering = stranger.clone();
    tokio::spawn(async move {
        while let Some(request) = futures::StreamExt::next(&mut requests).await {
            if let Some(reply) = request.reply {
                let _ = answering.publish(reply, "forty-two".into()).await;
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
    assert!(ended.stderr[0].contains("nobody answers math.sum"));
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
        let _math = start_alone(&server, bin)?;
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
async fn ten_thousand_malformed_requests_hurt_nobody() -> Result<()> {
    for bin in BOTH {
        let server = Server::start()?;
        let mut math = start_alone(&server, bin)?;
        let client = async_nats::connect(server.url()).await?;
        let inbox = client.new_inbox();
        let mut refusals = client.subscribe(inbox.clone()).await?;
        for n in 0..10_000_u32 {
            let garbage = n.to_le_bytes().repeat(1 + n as usize % 20);
            if n % 10 == 0 {
                // Nobody wants to know.
                client.publish(SUBJECT, garbage.into()).await?;
            } else {
                client
                    .publish_with_reply(SUBJECT, inbox.clone(), garbage.into())
                    .await?;
            }
        }
        for _ in 0..9_000 {
            let refused = futures::StreamExt::next(&mut refusals).await;
            let headers = refused.and_then(|reply| reply.headers);
            let headers = headers.context("an answer in place of an error")?;
            assert!(headers.get("Nats-Service-Error-Code").is_some());
        }
        works(&server)?;
        assert_eq!(stop(&mut math)?, 10_001);
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
        let mut math = start_alone(&server, bin)?;
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
fn a_reply_that_is_denied_stops_nobody() -> Result<()> {
    let users = r#"authorization { users [
        { user: math, password: a, permissions: {
            publish: ["_INBOX.>"], subscribe: ["math.sum math_servers", "$SRV.>", "_INBOX.>"] } }
        { user: client, password: b }
    ] }"#;
    for bin in BOTH {
        let server = Server::options().config(users).start()?;
        let url = |user: &str| server.url().replace("//", &format!("//{user}@"));
        let mut math = start(server.command(bin).env("NATS_URL", url("math:a")))?;
        server.wait_for_subscriptions(SUBJECT, 1)?;
        let mut socket = TcpStream::connect(("127.0.0.1", server.port()))?;
        socket.write_all(
            b"CONNECT {\"verbose\":false,\"user\":\"client\",\"pass\":\"b\"}\r\nPUB math.sum secret 2\r\n{}\r\n",
        )?;
        math.expect_stderr("denied it")?;
        let mut client = server.command(CLIENT);
        client.args(["17", "25"]).env("NATS_URL", url("client:b"));
        assert_eq!(
            Program::spawn(&mut client)?.wait()?.stdout,
            ["17 + 25 = 42"]
        );
        assert!(math.stop()?.success());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_can_be_found_and_watched() -> Result<()> {
    let server = Server::start()?;
    let mut first = start_alone(&server, SERVICE)?;
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

    // Everyone answers: nobody asks a queue group who is there.
    let _second = start(&mut server.command(SERVICE))?;
    server.wait_for_subscriptions("$SRV.*.math", 2)?;
    let inbox = client.new_inbox();
    let mut pongs = client.subscribe(inbox.clone()).await?;
    client
        .publish_with_reply("$SRV.PING.math", inbox, "".into())
        .await?;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let pong = futures::StreamExt::next(&mut pongs).await;
        let pong = serde_json::from_slice::<serde_json::Value>(&pong.context("none")?.payload)?;
        ids.push(pong["id"].to_string());
    }
    assert_ne!(ids[0], ids[1]);
    assert_eq!(stop(&mut first)?, 3);
    Ok(())
}

/// Keeps 64 requests in flight until it is told to stop, and counts what became of them.
struct Load {
    client: async_nats::Client,
    stop: tokio::sync::watch::Sender<bool>,
    lanes: Vec<tokio::task::JoinHandle<Result<Counts>>>,
}

#[derive(Debug, Default)]
struct Counts {
    answered: u64,
    lost: u64,
}

impl Load {
    async fn start(server: &Server) -> Result<Self> {
        let options = async_nats::ConnectOptions::new().request_timeout(Some(PATIENCE));
        let client = options.connect(server.url()).await?;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let lane = || {
            let (client, stopped) = (client.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut counts = Counts::default();
                while !*stopped.borrow() {
                    let request = r#"{"x":17,"y":25}"#.into();
                    match client.request(SUBJECT, request).await {
                        Ok(reply) if reply.payload == r#"{"result":42}"# => counts.answered += 1,
                        Ok(reply) => anyhow::bail!("{reply:?}"),
                        Err(_) => counts.lost += 1,
                    }
                }
                Ok(counts)
            })
        };
        let lanes = (0..64).map(|_| lane()).collect();
        Ok(Self {
            client,
            stop,
            lanes,
        })
    }

    /// Waits until the next replies have come, or what was lost has timed out.
    async fn goes_on(&self) -> Result<()> {
        let received = || {
            let statistics = self.client.statistics();
            statistics
                .in_messages
                .load(std::sync::atomic::Ordering::Relaxed)
        };
        let enough = received() + 200;
        while received() < enough {
            self.client
                .request("nobody.is.there", "".into())
                .await
                .err();
        }
        Ok(())
    }

    async fn end(self) -> Result<Counts> {
        self.stop.send(true)?;
        let mut sum = Counts::default();
        for lane in self.lanes {
            let counts = lane.await??;
            sum.answered += counts.answered;
            sum.lost += counts.lost;
        }
        Ok(sum)
    }
}

/// Two servers, stopped and started again in turns while 64 requests are in flight.
async fn restart_in_turns(bin: &str, delay: Duration, restarts: usize) -> Result<()> {
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    link.delay(delay);
    let url = if delay.is_zero() {
        server.url()
    } else {
        link.url()
    };
    let begin = || start(server.command(bin).env("NATS_URL", &url));
    let mut servers = VecDeque::from([begin()?, begin()?]);
    server.wait_for_subscriptions(SUBJECT, 2)?;
    let load = Load::start(&server).await?;
    let mut leaving = Vec::new();
    for _ in 0..restarts {
        load.goes_on().await?;
        let mut oldest = servers.pop_front().context("two servers")?;
        oldest.signal(Signal::TERM)?;
        leaving.push(oldest);
        servers.push_back(begin()?);
        server.wait_for_subscriptions(SUBJECT, 2)?;
    }
    load.goes_on().await?;
    let counts = load.end().await?;
    ensure!(counts.lost == 0, "{counts:?}");
    let mut taken = 0;
    for program in &mut leaving {
        let ended = program.wait()?;
        ensure!(ended.success() && ended.stderr.is_empty(), "{ended:?}");
        let last = ended.stdout.last().context("nothing said")?;
        taken += number(last, " requests")?;
    }
    for program in &mut servers {
        taken += stop(program)?;
    }
    ensure!(taken == counts.answered, "{taken}, {counts:?}");
    Ok(())
}

const RESTARTS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(2);
const FAR: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_of_servers_cost_no_reply() -> Result<()> {
    restart_in_turns(SERVER, Duration::ZERO, RESTARTS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_of_services_cost_no_reply() -> Result<()> {
    restart_in_turns(SERVICE, Duration::ZERO, RESTARTS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_of_servers_far_away_cost_no_reply() -> Result<()> {
    restart_in_turns(SERVER, FAR, RESTARTS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_of_services_far_away_cost_no_reply() -> Result<()> {
    restart_in_turns(SERVICE, FAR, RESTARTS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_costs_what_it_had_in_hand() -> Result<()> {
    for bin in BOTH {
        let server = Server::start()?;
        let mut victim = start(&mut server.command(bin))?;
        let _survivor = start(&mut server.command(bin))?;
        server.wait_for_subscriptions(SUBJECT, 2)?;
        let load = Load::start(&server).await?;
        load.goes_on().await?;
        victim.kill()?;
        server.wait_for_subscriptions(SUBJECT, 1)?;
        load.goes_on().await?;
        works(&server)?;
        let counts = load.end().await?;
        assert!(counts.lost <= 64, "{counts:?}");
    }
    Ok(())
}

#[test]
fn servers_are_back_within_a_second_of_the_server() -> Result<()> {
    for bin in BOTH {
        let mut server = Server::start()?;
        let mut math = start_alone(&server, bin)?;
        works(&server)?;
        server.kill()?;
        math.expect_stderr("lost the connection")?;
        server.restart()?;
        let begun = Instant::now();
        server.wait_for_subscriptions(SUBJECT, 1)?;
        assert!(begun.elapsed() < Duration::from_secs(1));
        works(&server)?;
        math.expect_stderr("again")?;
        let ended = math.stop()?;
        assert!(ended.success());
        assert_eq!(ended.stderr.len(), 2, "{:?}", ended.stderr);
    }
    Ok(())
}

#[test]
fn requests_in_flight_when_the_server_dies_end_in_time() -> Result<()> {
    let mut server = Server::start()?;
    let _math = start_alone(&server, SERVER)?;
    let mut command = server.command(CLIENT);
    command.args(["17", "25", "--count", "20000", "--concurrency", "64"]);
    // Nobody waits for that long: a reply whose connection is lost cannot come.
    let mut client = Program::spawn(command.args(["--timeout", "1m"]))?;
    client.expect("17 + 25 = 42")?;
    server.kill()?;
    server.restart()?;
    let ended = client.wait()?;
    let summary = ended.stdout.last().context("no summary")?;
    let answered = number(summary, " requests in ")?;
    assert_eq!(ended.stdout.len() as u64, answered + 1);
    let report = ended.stderr.last().context("no report")?;
    if answered < 20_000 {
        assert_eq!(ended.code(), Some(1));
        assert_eq!(
            number(report, " of 20000 requests failed")?,
            20_000 - answered
        );
        assert!(report.contains("the connection was lost"), "{report}");
    } else {
        assert!(ended.success());
    }
    assert!(answered > 10_000, "{summary}: the client did not go on");
    Ok(())
}

#[test]
fn servers_stop_while_the_server_is_away() -> Result<()> {
    let mut server = Server::start()?;
    let mut both = [
        start(&mut server.command(SERVER))?,
        start(&mut server.command(SERVICE))?,
    ];
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

#[test]
fn a_slow_link_slows_and_a_cut_link_times_out() -> Result<()> {
    let server = Server::start()?;
    let _math = start_alone(&server, SERVER)?;
    let link = Link::to(server.port())?;
    link.delay(FAR);
    let mut command = server.command(CLIENT);
    command.args(["17", "25", "--count", "3"]);
    let ended = Program::spawn(command.env("NATS_URL", link.url()))?.wait()?;
    assert!(ended.success());
    let summary = ended.stdout.last().context("no summary")?;
    assert!(number(summary, " µs, p99")? >= 40_000, "{summary}");

    // Some of them are on their way when the link is cut.
    link.delay(Duration::from_millis(200));
    let mut command = server.command(CLIENT);
    command.args(["17", "25", "--count", "5", "--timeout", "1s"]);
    let mut client = Program::spawn(command.env("NATS_URL", link.url()))?;
    client.expect("17 + 25 = 42")?;
    link.cut();
    let ended = client.wait()?;
    assert_eq!(ended.code(), Some(1));
    let last = ended.stderr.last().context("no error")?;
    assert!(
        last.contains("of 5 requests failed: no reply within 1s"),
        "{last}"
    );
    Ok(())
}

#[test]
fn a_client_that_is_stopped_takes_its_replies_first() -> Result<()> {
    let server = Server::start()?;
    let mut math = start_alone(&server, SERVER)?;
    let mut command = server.command(CLIENT);
    command.args(["1", "2", "--count", "100000000", "--concurrency", "64"]);
    let mut client = Program::spawn(&mut command)?;
    client.expect("1 + 2 = 3")?;
    let ended = client.stop()?;
    assert!(ended.success());
    assert_eq!(ended.stderr, [""; 0]);
    let summary = ended.stdout.last().context("no summary")?;
    assert_eq!(stop(&mut math)?, number(summary, " requests in ")?);
    Ok(())
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_client_quietly() -> Result<()> {
    let server = Server::start()?;
    let _math = start_alone(&server, SERVER)?;
    let pipe = r#"("$0" 1 2 --count 1000000; echo "exit $?" >&2) | head -1"#;
    let ended = Program::spawn(server.command("sh").args(["-c", pipe, CLIENT]))?.wait()?;
    assert_eq!(ended.stdout, ["1 + 2 = 3"]);
    assert_eq!(ended.stderr, ["exit 0"]);
    Ok(())
}
