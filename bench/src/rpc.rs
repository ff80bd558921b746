//! `rpc`: what a request costs by NATS, what it costs straight by HTTP, and what is lost when
//! servers are restarted.

use std::collections::VecDeque;
use std::io::{Write, stdout};
use std::pin::pin;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_nats::Request;
use axum::Json;
use axum::routing::post;
use axum::serve::ListenerExt;
use common::CancellationToken;
use common::payload::{SumReply, SumRequest};
use futures::future::try_join_all;
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
use crate::plot::{Axis, Panel, Plot};
use crate::report::Table;
use crate::stage::{self, Stage, figure, last_line};

const SUBJECT: &str = "math.sum";
const QUEUE_GROUP: &str = "math_servers";
/// A reply that has not come by now does not come.
const LOST: Duration = Duration::from_secs(2);
const SUM: SumRequest = SumRequest { x: 17, y: 25 };

const CONTENDERS: [&str; 4] = [
    "HTTP: hyper, axum",
    "bare client, first-math-server",
    "math-client, math-server",
    "math-client, math-service",
];

/// How a server stops, and the program or part that stops so.
const WAYS: [(&str, &str); 5] = [
    ("first-math-server: plain exit", "first-math-server"),
    ("service-api: Service::stop", "service-api"),
    ("Subscriber::drain", DRAINING),
    ("math-server", "math-server"),
    ("math-service", "math-service"),
];
/// `math-server` with nothing but the client library.
const DRAINING: &str = "draining-server";
/// Requests in flight, for the plot.
const IN_FLIGHT: [u32; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
const NEAR: Duration = Duration::ZERO;
/// How far away the servers are, in each direction.
const FAR: Duration = Duration::from_millis(20);
const VERY_FAR: Duration = Duration::from_millis(250);

/// What a request costs, and what a restart.
pub const STEPS: &[Step] = &[
    |stage| Ok(vec![requests(stage, "Requests one by one", 5_000, 1)?]),
    |stage| Ok(vec![requests(stage, "Requests, 64 in flight", 100_000, 64)?]),
    |stage| Ok(vec![restarts(stage, "on this machine", NEAR, 20)?]),
    |stage| Ok(vec![restarts(stage, "20 ms away", FAR, 20)?]),
    |stage| Ok(vec![restarts(stage, "250 ms away", VERY_FAR, 6)?]),
];

fn requests(stage: &Stage, title: &str, count: u32, concurrency: u32) -> Result<Table> {
    let server = Stage::server()?;
    let samples = stage.in_turns(title, &CONTENDERS, |contender| {
        ask(stage, &server, contender, count, concurrency)
    })?;
    let mut table = Table::new(&format!("{title} ({count})"), &["requests/s", "p50 µs", "p99 µs"]);
    for (name, samples) in CONTENDERS.iter().zip(&samples) {
        table.row(name, samples);
    }
    Ok(table)
}

/// Rate and latency over the number of requests in flight.
///
/// # Errors
///
/// If a program fails.
pub fn plot(stage: &Stage) -> Result<Plot> {
    let title = "A sum by NATS and by HTTP";
    let server = Stage::server()?;
    let columns = stage.sweep(title, &CONTENDERS[..3], &IN_FLIGHT, |contender, in_flight| {
        ask(stage, &server, contender, 10_000 * in_flight.min(10), in_flight)
    })?;
    let y = [Axis::linear("requests a second"), Axis::logarithmic("latency, µs (p50)")];
    let panels = columns.into_iter().zip(y).map(|(lines, y)| Panel {
        x: Axis::logarithmic("requests in flight"),
        y,
        lines,
    });
    Ok(Plot { title: title.into(), panels: panels.collect() })
}

/// Rate, median and 99th percentile (µs) of requests to one server.
fn ask(
    stage: &Stage,
    server: &Server,
    contender: usize,
    count: u32,
    concurrency: u32,
) -> Result<Vec<f64>> {
    let (count, concurrency) = (count.to_string(), concurrency.to_string());
    let (mut answering, mut asking) = match contender {
        0 => {
            let mut http = Program::spawn(&mut stage.part(server, &["http-server"]))?.quiet();
            let address = http.expect("127.0.0.1:")?;
            (http, stage.part(server, &["http-client", &address]))
        }
        1 => (
            answering(&mut program(stage, server, "first-math-server")?)?,
            stage.part(server, &["nats-client"]),
        ),
        _ => {
            let bin = ["math-server", "math-service"][contender - 2];
            let mut client = program(stage, server, "math-client")?;
            client.args(["17", "25", "--quiet", "--count", &count]);
            client.args(["--concurrency", &concurrency]);
            (answering(&mut program(stage, server, bin)?)?, client)
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
}

/// Requests that got no reply while each of two servers was stopped and started again.
fn restarts(stage: &Stage, place: &str, delay: Duration, restarts: usize) -> Result<Table> {
    let title = format!("Replies lost in {restarts} restarts of servers {place}, 64 in flight");
    let mut table = Table::new(&title, &["lost", "requests"]);
    for (name, way) in WAYS {
        Stage::progress(&format!("{title}: {name}"));
        let server = Stage::server()?;
        let link = Link::to(server.port())?;
        link.delay(delay);
        let start = || {
            let mut command = match way {
                DRAINING => stage.part(&server, &[DRAINING]),
                way => program(stage, &server, way)?,
            };
            if !delay.is_zero() {
                command.env("NATS_URL", link.url());
            }
            answering(&mut command)
        };
        let mut servers = VecDeque::from([start()?, start()?]);
        server.wait_for_subscriptions(SUBJECT, 2)?;
        let mut load = Program::spawn(&mut stage.part(&server, &["load"]))?.quiet();
        let mut stopped = Vec::new();
        for _ in 0..restarts {
            goes_on(&server)?;
            let mut oldest = servers.pop_front().context("two servers")?;
            oldest.signal(if way == DRAINING { Signal::TERM } else { Signal::INT })?;
            stopped.push(oldest);
            servers.push_back(start()?);
            server.wait_for_subscriptions(SUBJECT, 2)?;
        }
        goes_on(&server)?;
        let ended = load.stop()?;
        let counts = ended.stdout.last().context("no count")?;
        let figures = [figure(counts, "lost ", " of")?, figure(counts, "of ", " requests")?];
        table.row(name, &[figures.to_vec()]);
    }
    Stage::progress("");
    Ok(table)
}

/// Waits until nats-server has received some more.
fn goes_on(server: &Server) -> Result<()> {
    let passed = |varz: &serde_json::Value| varz["in_msgs"].as_u64().unwrap_or_default();
    let enough = passed(&server.monitor("/varz")?) + 500;
    server.monitor_until("/varz", |varz| passed(varz) > enough)?;
    Ok(())
}

/// A program or an example of the experiment.
fn program(stage: &Stage, server: &Server, name: &str) -> Result<Command> {
    let path = match name {
        "first-math-server" | "service-api" => stage.example(name)?,
        name => stage.program(name)?,
    };
    Ok(server.command(path))
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
        ["http-server"] => http_server().await,
        ["http-client", address, count, concurrency] => {
            http_client(address, count.parse()?, concurrency.parse()?).await
        }
        [DRAINING] => draining_server().await,
        ["load"] => load().await,
        ["nats-client", count, concurrency] => {
            nats_client(count.parse()?, concurrency.parse()?).await
        }
        _ => bail!("no such part: {args:?}"),
    }
}

/// The twin of `math-server`, as one writes it with axum.
async fn http_server() -> Result<()> {
    let sum =
        async |Json(request): Json<SumRequest>| Json(SumReply { result: request.x + request.y });
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

/// A server that leaves its queue group as the client library offers it.
async fn draining_server() -> Result<()> {
    let nats = nats().await?;
    let mut requests = nats.queue_subscribe(SUBJECT, QUEUE_GROUP.into()).await?;
    nats.flush().await?;
    writeln!(stdout(), "waiting")?;
    let mut terminated = pin!(stage::terminated());
    let mut draining = false;
    loop {
        let request = tokio::select! {
            request = requests.next() => request,
            _ = &mut terminated, if !draining => {
                draining = true;
                requests.drain().await?;
                continue;
            }
        };
        let Some(request) = request else { break };
        let reply = request.reply.context("a request names a reply subject")?;
        nats.publish(reply, answer(&request.payload)?).await?;
    }
    Ok(nats.flush().await?)
}

fn answer(request: &[u8]) -> Result<Bytes> {
    let sum: SumRequest = serde_json::from_slice(request)?;
    let result = sum.x + sum.y;
    Ok(serde_json::to_vec(&SumReply { result })?.into())
}

/// 64 requests in flight until it is told to stop; then what became of them.
async fn load() -> Result<()> {
    let nats = nats().await?;
    let stop = CancellationToken::new();
    let lanes = (0..64).map(async |_| {
        let (mut lost, mut sent) = (0_u32, 0_u32);
        while !stop.is_cancelled() {
            let request = Request::new().payload(serde_json::to_vec(&SUM)?.into());
            let request = request.timeout(Some(LOST));
            sent += 1;
            if nats.send_request(SUBJECT, request).await.is_err() {
                lost += 1;
            }
        }
        anyhow::Ok((lost, sent))
    });
    let stopped = async {
        stage::terminated().await?;
        stop.cancel();
        Ok(())
    };
    let (lanes, ()) = tokio::try_join!(try_join_all(lanes), stopped)?;
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
