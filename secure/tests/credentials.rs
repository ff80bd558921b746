//! The decentralized form: an operator, accounts and users in JWTs.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use testkit::Program;

use crate::lessons::play;
use crate::lists::{for_each, lessons};
use crate::support::{PATIENCE, Playground, stop};

#[test]
fn with_credentials_each_program_plays_its_lesson() -> Result<()> {
    for_each(lessons(), |user| {
        let mut playground = Playground::with_credentials()?;
        play(&mut playground, user).with_context(|| user.to_owned())
    })
}

/// Seconds in which programs start and connect, on a busy machine too.
const EXPIRES: u64 = 8;

fn in_seconds(seconds: u64) -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + seconds)
}

#[test]
fn a_program_whose_credentials_expire_says_so_once_and_works_again_when_they_are_replaced()
-> Result<()> {
    let playground = Playground::with_credentials()?;
    let credentials = playground.credentials.as_ref().context("no credentials")?;
    credentials.vouch("log-worker", Some(in_seconds(EXPIRES)?))?;
    let mut worker = playground.start_program("log-worker", "", "waiting")?;
    worker.expect_stderr("its credentials have expired")?;
    let expired = Instant::now();
    let connections = || {
        Ok::<_, anyhow::Error>(playground.server.monitor("/varz")?["total_connections"].as_u64())
    };
    let before = connections()?.context("no count")?;
    // Five attempts take 0.1 + 0.2 + 0.4 + 0.8 + 1.6 s.
    playground
        .server
        .monitor_until("/varz", |varz| varz["total_connections"].as_u64() >= Some(before + 5))?;
    let took = expired.elapsed();
    ensure!(took > Duration::from_secs(2), "five attempts in {took:?}");
    let lines = worker.stderr();
    ensure!(lines.len() == 2, "{lines:?}");
    // It reads its file again.
    credentials.vouch("log-worker", None)?;
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
            let credentials = playground.credentials.as_ref().context("no credentials")?;
            credentials.vouch(user, Some(in_seconds(EXPIRES)?))?;
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
