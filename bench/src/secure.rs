//! `secure`: what a flood in one account does to requests in another one.

use std::io::{Write, stdout};
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use async_nats::ConnectOptions;
use async_nats::jetstream::{self, stream};
use futures::future::try_join_all;
use hyper::body::Bytes;
use testkit::{Program, Server};

use crate::report::Table;
use crate::stage::{Stage, figure, last_line};

/// The parts of this measurement: publishers, and work that has nothing to do with NATS.
pub const FLOOD: &str = "flood";
/// See [`FLOOD`].
pub const WORK: &str = "work";

/// Requests, one by one. Beside a flood of JetStream each takes many milliseconds.
const REQUESTS: &str = "500";
/// Connections that try to flood.
const CONNECTIONS: usize = 8;
/// The message that they publish, in bytes.
const MESSAGE: usize = 1024;

const NONE: &str = "";
/// As `cargo xtask up --secure` writes them, but with fewer connections than the flood has.
const LIMITS: &str = "limits { max_connections: 2, max_subscriptions: 50, max_payload: 4KB }";
const STORAGE: &str = "jetstream { max_mem: 64MB, max_file: 64MB, max_streams: 10 }";
const ANY_STORAGE: &str = "jetstream: enabled";

/// What goes on meanwhile, and what the account of the flood may use.
const ROWS: [(&str, Option<&str>, [&str; 2]); 6] = [
    ("no flood", None, [NONE, ANY_STORAGE]),
    ("two threads of work, without NATS", Some("-"), [NONE, ANY_STORAGE]),
    ("8 publishers, core NATS", Some("core"), [NONE, ANY_STORAGE]),
    ("the same, 2 connections allowed", Some("core"), [LIMITS, ANY_STORAGE]),
    ("8 publishers, JetStream", Some("jetstream"), [NONE, ANY_STORAGE]),
    ("the same, 2 connections and 64 MB allowed", Some("jetstream"), [LIMITS, STORAGE]),
];

/// Requests of `math-client` beside a flood in another account.
///
/// # Errors
///
/// If a part fails.
pub fn bench(stage: &Stage) -> Result<Vec<Table>> {
    let math_server = stage.program("math-server")?;
    let math_client = stage.program("math-client")?;
    let title = format!("Requests one by one beside a flood in another account ({REQUESTS})");
    let names = ROWS.map(|(name, ..)| name);
    let samples = stage.in_turns(&title, &names, |row| {
        let (_, flood, limits) = ROWS[row];
        let server = server(limits)?;
        let as_user = |mut command: Command, user| {
            command.env("NATS_USER", user).env("NATS_PASSWORD", "secret");
            command
        };
        let mut answering = as_user(server.command(&math_server), "calm");
        let mut answering = Program::spawn(&mut answering)?.quiet();
        answering.expect("waiting")?;
        let flood = flood.map(|kind| -> Result<Program> {
            let part = if kind == "-" { vec![WORK] } else { vec![FLOOD, kind] };
            let mut flood =
                Program::spawn(&mut as_user(stage.part(&server, &part), "flood"))?.quiet();
            flood.expect("at work")?;
            Ok(flood)
        });
        let flood = flood.transpose()?;
        let flooded = |server: &Server| -> Result<f64> {
            Ok(server.monitor("/varz")?["in_msgs"].as_f64().unwrap_or_default())
        };
        let before = flooded(&server)?;
        let begun = Instant::now();
        let mut asking = as_user(server.command(&math_client), "calm");
        asking.args(["17", "25", "--quiet", "--count", REQUESTS, "--timeout", "30s"]);
        let line = last_line(&mut asking)?;
        let requests: f64 = REQUESTS.parse()?;
        // Each request is a message, and so is its reply.
        let other = (flooded(&server)? - before - 2.0 * requests).max(0.0);
        let rate = other / begun.elapsed().as_secs_f64();
        if let Some(mut flood) = flood {
            flood.kill()?;
        }
        answering.kill()?;
        Ok(vec![figure(&line, "p50 ", " µs")?, figure(&line, "p99 ", " µs")?, rate])
    })?;
    let mut table = Table::new(&title, &["p50 µs", "p99 µs", "flood, messages/s"]);
    for (name, samples) in names.iter().zip(&samples) {
        table.row(name, samples);
    }
    Ok(vec![table])
}

/// A server with an account for the requests and one for the flood.
fn server([limits, storage]: [&str; 2]) -> Result<Server> {
    let accounts = format!(
        "accounts {{
           CALM {{ users: [{{ user: calm, password: secret }}] }}
           FLOOD {{ {limits}\n{storage}\nusers: [{{ user: flood, password: secret }}] }}
         }}"
    );
    Ok(Server::options().config(&accounts).start()?.quiet())
}

/// A process of its own.
///
/// # Errors
///
/// Whatever fails.
pub async fn part(args: Vec<String>) -> Result<()> {
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [WORK] => {
            let work = || loop {
                std::hint::black_box(0);
            };
            thread::spawn(work);
            thread::spawn(work);
            writeln!(stdout(), "at work")?;
            std::future::pending().await
        }
        [FLOOD, kind] => flood(kind == "jetstream").await,
        _ => bail!("no such part: {args:?}"),
    }
}

/// Publishes as fast as it can, on as many connections as it gets, until it is killed. It waits for no
/// acknowledgement: a program that means harm does not.
async fn flood(is_stored: bool) -> Result<()> {
    let (url, user) = (std::env::var("NATS_URL")?, std::env::var("NATS_USER")?);
    let password = std::env::var("NATS_PASSWORD")?;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let options = ConnectOptions::with_user_and_password(user.clone(), password.clone());
        clients.extend(options.connect(&url).await.ok());
    }
    let first = clients.first().context("no connection")?;
    if is_stored {
        let (name, subjects) = ("flood".into(), vec!["flood".into()]);
        let config = stream::Config { name, subjects, ..Default::default() };
        jetstream::new(first.clone()).create_stream(config).await?;
    }
    writeln!(stdout(), "at work")?;
    try_join_all(clients.iter().map(async |client| -> Result<()> {
        let message = Bytes::from(vec![b'x'; MESSAGE]);
        loop {
            client.publish("flood", message.clone()).await?;
        }
    }))
    .await?;
    Ok(())
}
