//! `rpc`: what a request costs by NATS, what it costs straight by HTTP, and what is lost when
//! servers are restarted.

use std::collections::VecDeque;
use std::io::{Write, stdout};
use std::pin::pin;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_nats::Request;
use async_nats::service::ServiceExt;
use axum::Json;
use axum::routing::post;
use axum::serve::ListenerExt;
use common::payload::{SumReply, SumRequest};
use futures::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header;
use hyper_util::rt::TokioIo;
use testkit::{Link, Program, Server, Signal};
use tokio::net::{TcpListener, TcpStream};

use crate::Step;
use crate::report::Table;
use crate::stage::{Stage, figure, last_line};

const SUBJECT: &str = "math.sum";
const QUEUE_GROUP: &str = "math_servers";
/// A reply that has not come by now does not come.
const LOST: Duration = Duration::from_secs(2);
const SUM: SumRequest = SumRequest { x: 17, y: 25 };

const CONTENDERS: [&str; 4] = [
    "HTTP: hyper, axum",
    "NATS: bare async-nats",
    "math-client, math-server",
    "math-client, math-service",
];

/// How a server can stop, and which program or part does it so.
const WAYS: [(&str, &str); 6] = [
    ("plain exit", "exit"),
    ("unsubscribe", "unsubscribe"),
    ("Service::stop", "service"),
    ("Subscriber::drain", "drain"),
    ("math-server", "math-server"),
    ("math-service", "math-service"),
];
const RESTARTS: usize = 20;
/// How far away the servers are in the last table, in each direction.
const FAR: Duration = Duration::from_millis(20);

/// What a request costs, and what a restart.
pub const STEPS: &[Step] = &[
    |stage| Ok(vec![requests(stage, "Requests one by one", 5_000, 1)?]),
    |stage| {
        Ok(vec![requests(
            stage,
            "Requests, 64 in flight",
            100_000,
            64,
        )?])
    },
    |stage| Ok(vec![restarts(stage, "on this machine", Duration::ZERO)?]),
    |stage| Ok(vec![restarts(stage, "20 ms away", FAR)?]),
];

fn requests(stage: &Stage, title: &str, count: u32, concurrency: u32) -> Result<Table> {
    let server = Stage::server()?;
    let math_client = stage.program("rpc", "math-client")?;
    let (count, concurrency) = (count.to_string(), concurrency.to_string());
    let samples = stage.in_turns(title, &CONTENDERS, |contender| {
        let (mut answering, mut asking) = match contender {
            0 => {
                let mut http = Program::spawn(&mut stage.part(&server, &["http-server"]))?.quiet();
                let address = http.expect("127.0.0.1:")?;
                (http, stage.part(&server, &["http-client", &address]))
            }
            1 => (
                answering(&mut stage.part(&server, &["nats-server", "exit"]))?,
                stage.part(&server, &["nats-client"]),
            ),
            _ => {
                let bin = ["math-server", "math-service"][contender - 2];
                let mut client = server.command(&math_client);
                client.args(["17", "25", "--quiet", "--count", &count]);
                client.args(["--concurrency", &concurrency]);
                (answering(&mut program(stage, &server, bin)?)?, client)
            }
        };
        if contender < 2 {
            asking.args([&count, &concurrency]);
        }
        let line = last_line(&mut asking)?;
        answering.kill()?;
        Ok(vec![
            figure(&line, "(", "/s)")?,
            figure(&line, "p50 ", " µs")?,
            figure(&line, "p99 ", " µs")?,
        ])
    })?;
    let mut table = Table::new(
        &format!("{title} ({count})"),
        &["requests/s", "p50 µs", "p99 µs"],
    );
    for (name, samples) in CONTENDERS.iter().zip(&samples) {
        table.row(name, samples);
    }
    Ok(table)
}

/// Requests that got no reply while each of two servers was stopped and started again.
fn restarts(stage: &Stage, place: &str, delay: Duration) -> Result<Table> {
    let title = format!("Replies lost in {RESTARTS} restarts of servers {place}, 64 in flight");
    let mut table = Table::new(&title, &["lost", "requests"]);
    for (name, way) in WAYS {
        Stage::progress(&format!("{title}: {name}"));
        let server = Stage::server()?;
        let link = Link::to(server.port())?;
        link.delay(delay);
        let start = || {
            let mut command = if way.starts_with("math") {
                program(stage, &server, way)?
            } else {
                stage.part(&server, &["nats-server", way])
            };
            if !delay.is_zero() {
                command.env("NATS_URL", link.url());
            }
            answering(&mut command)
        };
        let mut servers = VecDeque::from([start()?, start()?]);
        server.wait_for_subscriptions(SUBJECT, 2)?;
        let mut load = Program::spawn(&mut stage.part(&server, &["load"]))?.quiet();
        let mut gone = Vec::new();
        for _ in 0..RESTARTS {
            goes_on(&server)?;
            let mut oldest = servers.pop_front().context("two servers")?;
            oldest.signal(Signal::TERM)?;
            gone.push(oldest);
            servers.push_back(start()?);
            server.wait_for_subscriptions(SUBJECT, 2)?;
        }
        goes_on(&server)?;
        let ended = load.stop()?;
        let counts = ended.stdout.last().context("no count")?;
        let figures = [
            figure(counts, "lost ", " of")?,
            figure(counts, "of ", " requests")?,
        ];
        table.row(name, &[figures.to_vec()]);
    }
    Stage::progress("");
    Ok(table)
}

/// Waits until the server has passed on some more.
fn goes_on(server: &Server) -> Result<()> {
    let passed = |varz: &serde_json::Value| varz["in_msgs"].as_u64().unwrap_or_default();
    let enough = passed(&server.monitor("/varz")?) + 1000;
    server.monitor_until("/varz", |varz| passed(varz) > enough)?;
    Ok(())
}

/// A program of the experiment.
fn program(stage: &Stage, server: &Server, bin: &str) -> Result<Command> {
    Ok(server.command(stage.program("rpc", bin)?))
}

/// A server that has subscribed.
fn answering(command: &mut Command) -> Result<Program> {
    let mut program = Program::spawn(command)?.quiet();
    program.expect("waiting")?;
    Ok(program)
}

/// A process of its own, as the programs are that it is compared with.
///
/// # Errors
///
/// Whatever fails.
pub async fn part(args: Vec<String>) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["http-server"] => on_all_cores(http_server).await,
        ["http-client", address, count, concurrency] => {
            let (count, concurrency) = (count.parse()?, concurrency.parse()?);
            let address = address.to_owned();
            on_all_cores(async move || http_client(&address, count, concurrency).await).await
        }
        ["nats-server", way] => nats_server(way).await,
        ["load"] => load().await,
        ["nats-client", count, concurrency] => {
            nats_client(count.parse()?, concurrency.parse()?).await
        }
        _ => bail!("no such part: {args:?}"),
    }
}

/// With the runtime that `#[tokio::main]` gives to most HTTP programs.
async fn on_all_cores(part: impl AsyncFnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let part = move || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.enable_all().build()?.block_on(part())
    };
    tokio::task::spawn_blocking(part).await?
}

/// The twin of `math-server`, as one writes it with axum.
async fn http_server() -> Result<()> {
    let sum = async |Json(request): Json<SumRequest>| {
        Json(SumReply {
            result: request.x + request.y,
        })
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    writeln!(stdout(), "{}", listener.local_addr()?)?;
    let listener = listener.tap_io(|socket| {
        let _ = socket.set_nodelay(true);
    });
    let app = axum::Router::new().route("/sum", post(sum));
    Ok(axum::serve(listener, app).await?)
}

/// The twin of `math-client`: a connection for each request in flight, kept alive.
async fn http_client(address: &str, count: u64, concurrency: u32) -> Result<()> {
    let mut connections = Vec::new();
    for _ in 0..concurrency {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        connections.push(sender);
    }
    let lanes = connections.into_iter().map(|mut connection| {
        let host = address.to_owned();
        async move || {
            connection.ready().await?;
            let request = hyper::Request::post("/sum")
                .header(header::HOST, &host)
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(Bytes::from(serde_json::to_vec(&SUM)?)))?;
            let reply = connection.send_request(request).await?;
            check(&reply.into_body().collect().await?.to_bytes())
        }
    });
    measure(count, lanes.collect()).await
}

/// What `math-server` adds to this: errors as replies, a bound, and a stop that loses nothing.
async fn nats_server(way: &str) -> Result<()> {
    let client = nats().await?;
    if way == "service" {
        return service(&client).await.map_err(anyhow::Error::from_boxed);
    }
    let mut requests = client.queue_subscribe(SUBJECT, QUEUE_GROUP.into()).await?;
    ready(&client).await?;
    let mut stopping = false;
    loop {
        tokio::select! {
            request = requests.next() => {
                let Some(request) = request else { break };
                let reply = request.reply.context("a request names a reply subject")?;
                client.publish(reply, answer(&request.payload)?).await?;
            }
            () = common::shutdown(), if !stopping => {
                stopping = true;
                match way {
                    "unsubscribe" => requests.unsubscribe().await?,
                    "drain" => requests.drain().await?,
                    _ => return Ok(()),
                }
            }
        }
    }
    common::close(&client).await
}

/// The same with the endpoints of the client library.
async fn service(client: &async_nats::Client) -> Result<(), async_nats::Error> {
    let service = client.service_builder().queue_group(QUEUE_GROUP);
    let service = service.start("math", "1.0.0").await?;
    let endpoint = service.endpoint_builder().name("sum");
    let mut requests = endpoint.add(SUBJECT).await?;
    ready(client).await?;
    tokio::spawn(async move {
        common::shutdown().await;
        service.stop().await
    });
    while let Some(request) = requests.next().await {
        let sum = answer(&request.message.payload)?;
        request.respond(Ok(sum)).await?;
    }
    Ok(common::close(client).await?)
}

async fn ready(client: &async_nats::Client) -> Result<()> {
    client.flush().await?;
    Ok(writeln!(stdout(), "waiting")?)
}

fn answer(request: &[u8]) -> Result<Bytes> {
    let sum: SumRequest = serde_json::from_slice(request)?;
    let result = sum.x + sum.y;
    Ok(serde_json::to_vec(&SumReply { result })?.into())
}

/// 64 requests in flight until it is told to stop; then what became of them.
async fn load() -> Result<()> {
    let client = nats().await?;
    let lane = async || {
        let (mut lost, mut sent) = (0_u32, 0_u32);
        let mut stop = pin!(common::shutdown());
        while futures::poll!(&mut stop).is_pending() {
            let request = Request::new().payload(serde_json::to_vec(&SUM)?.into());
            let request = request.timeout(Some(LOST));
            sent += 1;
            if client.send_request(SUBJECT, request).await.is_err() {
                lost += 1;
            }
        }
        anyhow::Ok((lost, sent))
    };
    let lanes = futures::future::try_join_all((0..64).map(|_| lane())).await?;
    let lost: u32 = lanes.iter().map(|(lost, _)| lost).sum();
    let sent: u32 = lanes.iter().map(|(_, sent)| sent).sum();
    writeln!(stdout(), "lost {lost} of {sent} requests")?;
    Ok(())
}

async fn nats_client(count: u64, concurrency: u32) -> Result<()> {
    let client = nats().await?;
    let lanes = (0..concurrency).map(|_| {
        let client = client.clone();
        async move || {
            let payload = serde_json::to_vec(&SUM)?;
            let reply = client.request(SUBJECT, payload.into()).await?;
            check(&reply.payload)
        }
    });
    measure(count, lanes.collect()).await
}

async fn nats() -> Result<async_nats::Client> {
    Ok(async_nats::connect(std::env::var("NATS_URL")?).await?)
}

fn check(reply: &[u8]) -> Result<()> {
    let reply: SumReply = serde_json::from_slice(reply)?;
    anyhow::ensure!(reply.result == SUM.x + SUM.y, "wrong: {reply:?}");
    Ok(())
}

/// Keeps every lane busy until all of them together have asked `count` times, and prints what
/// `math-client` prints.
async fn measure<L>(count: u64, lanes: Vec<L>) -> Result<()>
where
    L: AsyncFnMut() -> Result<()>,
{
    let width = lanes.len();
    let rounds = count / width as u64;
    let start = Instant::now();
    let times = stream::iter(lanes)
        .map(async |mut ask| {
            let mut times = Histogram::<u64>::new(3)?;
            for _ in 0..rounds {
                let asked = Instant::now();
                ask().await?;
                times.record(u64::try_from(asked.elapsed().as_micros())?)?;
            }
            anyhow::Ok(times)
        })
        .buffer_unordered(width)
        .try_fold(Histogram::<u64>::new(3)?, async |mut all, times| {
            all.add(times)?;
            Ok(all)
        })
        .await?;
    let summary = common::summary(times.len(), "requests", start.elapsed());
    let (p50, p99) = (times.value_at_quantile(0.5), times.value_at_quantile(0.99));
    writeln!(stdout(), "{summary}, p50 {p50} µs, p99 {p99} µs")?;
    Ok(())
}
