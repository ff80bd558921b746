//! `rpc`: what a request costs by NATS, and what it costs straight by HTTP.

use std::io::{Write, stdout};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use axum::Json;
use axum::routing::post;
use axum::serve::ListenerExt;
use common::payload::{SumReply, SumRequest};
use futures::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use testkit::{Program, Server};
use tokio::net::{TcpListener, TcpStream};

use crate::report::Table;
use crate::stage::{Stage, figure, last_line};

const SUBJECT: &str = "math.sum";
const SUM: SumRequest = SumRequest { x: 17, y: 25 };

/// How many requests, how many of them at once.
const LOADS: [(&str, u32, u32); 2] = [
    ("Requests one by one", 5_000, 1),
    ("Requests, 64 in flight", 100_000, 64),
];
const CONTENDERS: [&str; 2] = ["HTTP, hyper to axum", "NATS, bare async-nats"];

/// Both loads, each contender in turn.
///
/// # Errors
///
/// Where a part fails.
pub fn bench(stage: &Stage) -> Result<Vec<Table>> {
    let server = stage.server()?;
    let mut http = Program::spawn(&mut stage.part(&server, &["http-server"]))?.quiet();
    let http_address = http.expect("127.0.0.1:")?;
    let mut tables = Vec::new();
    for (title, count, concurrency) in LOADS {
        let title = format!("{title} ({count})");
        let (count, concurrency) = (count.to_string(), concurrency.to_string());
        let samples = stage.in_turns(&title, &CONTENDERS, |contender| {
            let line = match contender {
                0 => last_line(&mut stage.part(
                    &server,
                    &["http-client", &http_address, &count, &concurrency],
                ))?,
                _ => {
                    let _answering =
                        answering(&server, &mut stage.part(&server, &["nats-server"]))?;
                    last_line(&mut stage.part(&server, &["nats-client", &count, &concurrency]))?
                }
            };
            Ok(vec![
                figure(&line, "(", "/s)")?,
                figure(&line, "p50 ", " µs")?,
                figure(&line, "p99 ", " µs")?,
            ])
        })?;
        let mut table = Table::new(&title, &["requests/s", "p50 µs", "p99 µs"]);
        for (name, samples) in CONTENDERS.iter().zip(&samples) {
            table.row(name, samples);
        }
        tables.push(table);
    }
    Ok(tables)
}

/// A server that has subscribed.
fn answering(server: &Server, command: &mut std::process::Command) -> Result<Program> {
    let program = Program::spawn(command)?.quiet();
    server.wait_for_subscriptions(SUBJECT, 1)?;
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
        ["nats-server"] => nats_server().await,
        ["nats-client", count, concurrency] => {
            nats_client(count.parse()?, concurrency.parse()?).await
        }
        _ => bail!("no such part: {args:?}"),
    }
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
            let request = Request::post("/sum")
                .header(header::HOST, &host)
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(Bytes::from(serde_json::to_vec(&SUM)?)))?;
            let reply = connection.send_request(request).await?;
            check(&reply.into_body().collect().await?.to_bytes())
        }
    });
    measure(count, lanes.collect()).await
}

/// What `math-server` adds to this: errors as replies, a bound, a clean end.
async fn nats_server() -> Result<()> {
    let client = nats().await?;
    let mut requests = client.queue_subscribe(SUBJECT, "bench".into()).await?;
    client.flush().await?;
    while let Some(request) = requests.next().await {
        let sum: SumRequest = serde_json::from_slice(&request.payload)?;
        let reply = request.reply.context("a request names a reply subject")?;
        let result = sum.x + sum.y;
        let payload = serde_json::to_vec(&SumReply { result })?;
        client.publish(reply, payload.into()).await?;
    }
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
