//! The decentralized form: an operator, accounts and users in JWTs.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use async_nats::RequestErrorKind;
use futures::StreamExt;
use secured::access::ACCOUNTS;
use secured::{Taken, Terms};
use testkit::Program;
use tokio::time::timeout;

use crate::lessons::play;
use crate::lists::{for_each, lessons};
use crate::support::{PATIENCE, Playground, handled, stop};

#[test]
fn with_credentials_each_program_plays_its_lesson() -> Result<()> {
    for_each(lessons(), |user| {
        let mut playground = Playground::with_credentials()?;
        play(&mut playground, user).with_context(|| user.to_owned())
    })
}

/// Seconds in which programs start and connect, on a busy machine too.
const EXPIRES: u64 = 8;

fn in_seconds(seconds: u64) -> Result<Terms> {
    let until = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + seconds;
    Ok(Terms { until: Some(until), ..Default::default() })
}

#[test]
fn a_program_whose_credentials_expire_says_so_once_and_works_again_when_they_are_replaced()
-> Result<()> {
    let playground = Playground::with_credentials()?;
    playground.vouch("log-worker", in_seconds(EXPIRES)?)?;
    let mut worker = playground.start_program("log-worker", "", "waiting")?;
    worker.expect_stderr("its credentials have expired")?;
    let expired = Instant::now();
    let connections = || {
        Ok::<_, anyhow::Error>(playground.server.monitor("/varz")?["total_connections"].as_u64())
    };
    let before = connections()?.context("no count")?;
    // The first attempt can come at once. The pauses before five more are 0.1, 0.2, 0.4, 0.8, 1.6 s.
    playground
        .server
        .monitor_until("/varz", |varz| varz["total_connections"].as_u64() >= Some(before + 6))?;
    let took = expired.elapsed();
    ensure!(took > Duration::from_secs(2), "six attempts in {took:?}");
    let lines = worker.stderr();
    ensure!(lines.len() == 2, "{lines:?}");
    // It reads its file again.
    playground.vouch("log-worker", Terms::default())?;
    worker.expect_stderr("connected to")?;
    playground.run("log-publisher", "--count 3")?;
    worker.expect("log 3")?;
    stop(worker)?;
    Ok(())
}

#[test]
fn a_program_that_runs_once_gives_up_when_its_credentials_expire() -> Result<()> {
    for_each(
        vec![
            (
                "order-publisher",
                "--count 100000000 --in-flight 1 --patience 1h",
                "orders are stored",
            ),
            (
                "job-submit",
                "email --count 100000000 --in-flight 1 --patience 1h",
                "jobs are stored",
            ),
            ("log-publisher", "--count 100000000", ""),
            ("math-client", "--count 100000000", ""),
            ("config-admin", "--cycles 1000000 --interval 50ms", ""),
            ("job-admin", "watch", ""),
        ],
        |(user, args, says)| {
            let playground = Playground::with_credentials()?;
            let math_server = playground.start_program("math-server", "", "waiting")?;
            playground.run("job-submit", "email")?;
            playground.vouch(user, in_seconds(EXPIRES)?)?;
            let mut command = playground.command(user, args)?;
            let mut program = Program::spawn(&mut command)?.quiet().timeout(PATIENCE);
            let ended = program.wait()?;
            let last = ended.stderr.last().context("no line")?;
            let is_told = last.contains("its credentials have expired") && last.contains(says);
            ensure!(ended.code() == Some(1) && is_told, "{user}: {ended:?}");
            stop(math_server)?;
            Ok(())
        },
    )
}

/// A request from an account to which `math.sum` is not exported, and one from the account to which it is.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_for_one_account_only() -> Result<()> {
    let math = ACCOUNTS.iter().find(|account| account.name == "MATH").context("no MATH")?;
    let export = math.exports.first().context("no export")?;
    for with_token_of in [None, Some("OFFICE"), Some("ORDERS")] {
        let taken = Taken { by: "ORDERS", from: "MATH", export, with_token_of };
        let playground = Playground::with_taken(Some(taken))?;
        let server = playground.start_program("math-server", "", "waiting")?;
        if with_token_of == Some("OFFICE") {
            // That of its neighbour: nats-server does not accept the account at all.
            let error = playground.bystander("ORDERS").await.err().context("it has connected")?;
            ensure!(format!("{error:#}").contains("authorization violation"), "{error:#}");
            let said = "activation token doesn't match account";
            ensure!(playground.server.log().iter().any(|line| line.contains(said)));
        } else {
            let client = playground.bystander("ORDERS").await?;
            let answer = client.request("math.sum", r#"{"x":17,"y":25}"#.into()).await;
            if with_token_of.is_some() {
                // So it is the token that makes the difference.
                answer.context("not with its own token")?;
            } else {
                let kind = answer.err().context("it was answered")?.kind();
                ensure!(kind == RequestErrorKind::NoResponders, "{kind:?}");
            }
        }
        playground.run("math-client", "17 25")?;
        stop(server)?;
    }
    Ok(())
}

/// The same for a stream.
#[tokio::test(flavor = "multi_thread")]
async fn an_exported_stream_is_for_one_account_only() -> Result<()> {
    let plant = ACCOUNTS.iter().find(|account| account.name == "PLANT").context("no PLANT")?;
    let export = plant.exports.first().context("no export")?;
    let taken = Taken { by: "ORDERS", from: "PLANT", export, with_token_of: None };
    let playground = Playground::with_taken(Some(taken))?;
    let thief = playground.bystander("ORDERS").await?;
    let mut stolen = thief.subscribe("device.temp").await?;
    let mut backend = playground.start_program("backend", "", "waiting")?;
    handled(&thief).await?;
    playground.run("sensor", "--count 1")?;
    backend.expect("#1")?;
    // In its own account, and after the reading in order of time.
    thief.publish("device.temp", "end".into()).await?;
    let first = timeout(PATIENCE, stolen.next()).await?;
    ensure!(first.is_some_and(|it| it.payload == "end"), "it heard a reading");
    stop(backend)?;
    Ok(())
}
