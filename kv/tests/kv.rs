//! `config-admin` and `config-app` against a healthy server.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::jetstream::kv::{Config, Store};
use async_nats::jetstream::stream::StorageType;
use async_nats::jetstream::{self, Context};
use futures::StreamExt;
use testkit::{Link, Program, Server, Signal};
use tokio::time::timeout;

const ADMIN: &str = env!("CARGO_BIN_EXE_config-admin");
const APP: &str = env!("CARGO_BIN_EXE_config-app");

#[tokio::test(flavor = "multi_thread")]
async fn the_app_prints_the_value_at_once_and_then_every_change() -> Result<()> {
    let server = Server::start()?;
    let bucket = bucket(&server).await?;
    bucket.put("site_maintenance", "false".into()).await?;
    bucket.put("site_maintenance", "true".into()).await?;

    let mut app = Program::spawn(server.command(APP).args(["--limit", "101"]))?;
    app.expect("#2 site_maintenance is on")?;
    // The app does not print other keys.
    bucket.put("colour", "true".into()).await?;
    for n in 0..100 {
        let value = if n % 2 == 0 { "false" } else { "true" };
        bucket.put("site_maintenance", value.into()).await?;
    }

    let ended = app.wait()?;
    assert!(ended.success());
    assert_eq!(ended.stderr, [""; 0]);
    let (summary, values) = ended.stdout.split_last().context("nothing printed")?;
    let expected = |n| {
        let word = if n % 2 == 0 { "on" } else { "off" };
        let revision = if n == 0 { 2 } else { n + 3 };
        format!("#{revision} site_maintenance is {word}")
    };
    assert_eq!(values, (0..=100).map(expected).collect::<Vec<_>>());
    assert!(summary.starts_with("101 values in "), "{summary}");
    assert!(summary.ends_with("/s), site_maintenance is on"), "{summary}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_waits_for_the_bucket_and_skips_nothing_in_it() -> Result<()> {
    let server = Server::start()?;
    let mut app = Program::spawn(server.command(APP).args(["--limit", "20"]))?;
    app.expect("waiting for the bucket configs_playgrnd: site_maintenance is off")?;
    // Faster than the app can look.
    let bucket = bucket(&server).await?;
    for _ in 0..10 {
        bucket.put("site_maintenance", "true".into()).await?;
        bucket.put("site_maintenance", "false".into()).await?;
    }
    let ended = app.wait()?;
    assert!(ended.success());
    for n in 1..=20 {
        let word = if n % 2 == 0 { "off" } else { "on" };
        let line = format!("#{n} site_maintenance is {word}");
        assert!(ended.stdout.contains(&line), "no {line}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_yet_means_off() -> Result<()> {
    let server = Server::start()?;
    bucket(&server).await?;
    let mut app = Program::spawn(&mut server.command(APP))?;
    app.expect("watching, no value yet: site_maintenance is off")?;
    admin(&server, &["set", "true"])?;
    app.expect("#1 site_maintenance is on")?;
    assert!(app.stop()?.success());
    Ok(())
}

#[test]
fn an_app_that_is_stopped_before_its_limit_sums_up_too() -> Result<()> {
    let server = Server::start()?;
    admin(&server, &["set", "true"])?;
    let mut app = Program::spawn(server.command(APP).args(["--limit", "5"]))?;
    app.expect("#1 site_maintenance is on")?;
    let ended = app.stop()?;
    assert!(ended.success());
    let last = ended.stdout.last().context("no line")?;
    assert!(last.starts_with("1 values in "), "{last}");
    assert!(last.ends_with(", site_maintenance is on"), "{last}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_value_a_delete_and_a_purge_are_reported_and_mean_off() -> Result<()> {
    let server = Server::start()?;
    let bucket = bucket(&server).await?;
    bucket.delete("site_maintenance").await?;
    let mut app = Program::spawn(server.command(APP).args(["--limit", "8"]))?;
    app.expect("#1 site_maintenance is off")?;
    app.expect_stderr("#1 site_maintenance was deleted")?;

    for rubbish in ["", "TRUE", "true ", "1", "\u{1b}[2J\n", &"x".repeat(100_000)] {
        bucket.put("site_maintenance", "true".into()).await?;
        app.expect("site_maintenance is on")?;
        let value = rubbish.to_owned().into();
        let revision = bucket.put("site_maintenance", value).await?;
        app.expect(&format!("#{revision} site_maintenance is off"))?;
        let line = app.expect_stderr("neither true nor false: it is off")?;
        ensure!(line.len() < 200 && !line.contains('\u{1b}'), "{line:?}");
    }
    // Eight it is with the purge: rubbish does not count.
    ensure!(app.is_running()?);
    bucket.purge("site_maintenance").await?;
    app.expect("site_maintenance is off")?;
    app.expect_stderr("site_maintenance was purged")?;
    let ended = app.wait()?;
    assert!(ended.success());
    let last = ended.stdout.last().context("nothing printed")?;
    assert!(last.ends_with("site_maintenance is off"), "{last}");
    Ok(())
}

#[test]
fn quiet_prints_the_summary_alone() -> Result<()> {
    let server = Server::start()?;
    let stdout = admin(&server, &["--cycles", "2", "--interval", "0s", "--quiet"])?;
    assert_eq!(stdout.len(), 1);
    assert!(stdout[0].starts_with("2 cycles in "));
    let mut command = server.command(APP);
    let ended = Program::spawn(command.args(["--limit", "1", "--quiet"]))?.wait()?;
    assert!(ended.success());
    assert_eq!(ended.stdout.len(), 1);
    assert!(ended.stdout[0].starts_with("1 values in "));
    assert!(ended.stdout[0].ends_with("site_maintenance is off"));
    Ok(())
}

#[test]
fn a_run_of_the_admin_leaves_the_switch_as_it_found_it() -> Result<()> {
    let server = Server::start()?;
    let stdout = admin(&server, &["--interval", "10ms"])?;
    for (n, line) in stdout[..10].iter().enumerate() {
        let word = if n % 2 == 0 { "on" } else { "off" };
        assert_eq!(*line, format!("#{} site_maintenance is {word}", n + 1));
    }
    let seconds = stdout[10].split(' ').nth(3).context("no time")?.parse::<f64>()?;
    assert!(seconds < 5.0, "nine pauses of 10 ms, not of 1 s: {}", stdout[10]);
    assert_eq!(stdout.len(), 11);

    admin(&server, &["set", "true"])?;
    let stdout = admin(&server, &["--cycles", "1", "--interval", "10ms"])?;
    assert_eq!(stdout[0], "#12 site_maintenance is off");
    assert_eq!(stdout[1], "#13 site_maintenance is on");
    Ok(())
}

#[test]
fn an_admin_told_to_stop_turns_the_switch_back_first() -> Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::start()?;
        let mut admin = Program::spawn(server.command(ADMIN).args(["--interval", "1h"]))?;
        admin.expect("#1 site_maintenance is on")?;
        admin.signal(signal)?;
        let ended = admin.wait()?;
        assert!(ended.success());
        assert_eq!(ended.stdout[1], "#2 site_maintenance is off");
        assert!(ended.stdout[2].starts_with("1 cycles in "));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_admins_at_once_overwrite_nothing_of_each_other() -> Result<()> {
    let server = Server::start()?;
    let bucket = bucket(&server).await?;
    let mut app = Program::spawn(server.command(APP).args(["--limit", "400"]))?;
    app.expect("watching")?;
    let run = || {
        let mut command = server.command(ADMIN);
        Program::spawn(command.args(["--cycles", "100", "--interval", "0s"]))
    };
    let ended = [run()?, run()?].map(|mut admin| admin.wait());

    let mut revisions = BTreeSet::new();
    for ended in ended {
        let ended = ended?;
        assert!(ended.success());
        let lines = ended.stdout.iter().filter(|line| line.starts_with('#'));
        revisions.extend(lines.cloned());
    }
    // Each of the 400 writes is on after off, or off after on.
    let values = app.wait()?.stdout;
    for n in 1..=400 {
        let word = if n % 2 == 0 { "off" } else { "on" };
        let line = format!("#{n} site_maintenance is {word}");
        assert!(values.contains(&line), "the app does not have {line}");
        assert!(revisions.contains(&line), "no admin has {line}");
    }
    assert_eq!(bucket.stream.get_info().await?.state.last_sequence, 400);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_between_read_and_write_is_noticed_and_not_overwritten() -> Result<()> {
    let server = Server::start()?;
    let client = async_nats::connect(server.url()).await?;
    let bucket = bucket(&server).await?;
    let mut reads = client.subscribe("$JS.API.DIRECT.GET.>").await?;
    client.flush().await?;
    let link = Link::to(server.port())?;
    let args = ["--cycles", "1", "--interval", "0s", "--server", &link.url()];
    // The admin reads "off". Its write comes 600 ms later at the earliest. If this test is slower
    // than that, it tries again.
    for _ in 0..10 {
        bucket.purge("site_maintenance").await?;
        let before = bucket.stream.get_info().await?.state.last_sequence;
        link.delay(Duration::from_millis(300));
        let mut admin = Program::spawn(server.command(ADMIN).args(args))?;
        reads.next().await.context("the subscription ended")?;
        link.cut();
        let between = bucket.put("site_maintenance", "true".into()).await?;
        link.delay(Duration::ZERO);
        link.heal();
        let ended = admin.wait()?;
        assert!(ended.success());
        if between > before + 1 {
            while timeout(Duration::ZERO, reads.next()).await.is_ok() {}
            continue;
        }
        let noticed = format!("another program wrote after #{before}: reading again");
        assert!(ended.stderr.iter().any(|line| line.contains(&noticed)), "{:?}", ended.stderr);
        let turned = [(between + 1, "off"), (between + 2, "on")];
        let lines = turned.map(|(n, state)| format!("#{n} site_maintenance is {state}"));
        assert_eq!(ended.stdout[..2], lines);
        return Ok(());
    }
    bail!("this machine is too slow")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_says_what_was_written_when_and_by_whom() -> Result<()> {
    let server = Server::start()?;
    let mut command = server.command(ADMIN);
    let nothing = Program::spawn(command.arg("history"))?.wait()?;
    assert_eq!(nothing.code(), Some(1));
    assert_eq!(nothing.stderr.len(), 1);
    assert!(nothing.stderr[0].contains("there is no bucket configs_playgrnd"));

    let mut command = server.command(ADMIN);
    let mut set = Program::spawn(command.args(["set", "true"]).env("USER", "alice"))?;
    let process = set.id();
    assert!(set.wait()?.success());
    let bucket = jetstream(&server).await?.get_key_value("configs_playgrnd").await?;
    bucket.put("site_maintenance", "maybe".into()).await?;
    bucket.delete("site_maintenance").await?;
    bucket.purge("colour").await?;

    let lines = admin(&server, &["history"])?;
    assert_eq!(lines.len(), 3);
    let words: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    assert_eq!(words[0][0], "#1");
    assert!(words[0][1].starts_with("20") && words[0][1].ends_with('Z'), "{}", lines[0]);
    assert_eq!(words[0][2..4], ["true", "by"]);
    assert!(words[0][4].starts_with(&format!("alice-{process}-")), "{}", lines[0]);
    assert_eq!(words[1][2..], ["\"maybe\"", "by", "unknown"]);
    assert_eq!(words[2][2..], ["deleted", "by", "unknown"]);

    // A purge removes what was before it.
    bucket.purge("site_maintenance").await?;
    let lines = admin(&server, &["history"])?;
    assert_eq!(lines.len(), 1);
    assert!(lines[0].ends_with("purged by unknown"), "{}", lines[0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bucket_is_made_on_disk_with_a_history_of_64() -> Result<()> {
    let server = Server::start()?;
    let stdout = admin(&server, &["--cycles", "40", "--interval", "0s", "--quiet"])?;
    assert!(stdout[0].starts_with("40 cycles in "));
    let bucket = jetstream(&server).await?.get_key_value("configs_playgrnd").await?;
    let info = bucket.stream.cached_info();
    assert_eq!(info.config.storage, StorageType::File);
    assert_eq!(info.config.max_messages_per_subject, 64);
    let lines = admin(&server, &["history"])?;
    assert_eq!(lines.len(), 64);
    assert!(lines[0].starts_with("#17 ") && lines[63].starts_with("#80 "));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_exists_is_used_as_it_is() -> Result<()> {
    let server = Server::start()?;
    let config = Config {
        bucket: "configs_playgrnd".into(),
        history: 3,
        storage: StorageType::Memory,
        ..Config::default()
    };
    let jetstream = jetstream(&server).await?;
    jetstream.create_key_value(config).await?;
    admin(&server, &["--interval", "0s"])?;
    assert_eq!(admin(&server, &["history"])?.len(), 3);
    let bucket = jetstream.get_key_value("configs_playgrnd").await?;
    let info = bucket.stream.cached_info();
    assert_eq!(info.config.storage, StorageType::Memory);
    assert_eq!(info.config.max_messages_per_subject, 3);
    Ok(())
}

#[test]
fn a_bad_command_line_is_refused() -> Result<()> {
    let server = Server::start()?;
    for args in [&["set", "maybe"][..], &["set"], &["--cycles", "-1"], &["--interval", "1"]] {
        let ended = Program::spawn(server.command(ADMIN).args(args))?.wait()?;
        assert_eq!(ended.code(), Some(2), "{args:?}");
    }
    // Connection flags may stand on either side of a subcommand.
    let url = server.url();
    for args in [["set", "true", "-s", &url], ["-s", &url, "set", "false"]] {
        let mut command = server.command(ADMIN);
        let ended = Program::spawn(command.args(args).env_remove("NATS_URL"))?.wait()?;
        assert!(ended.success(), "{args:?}");
    }
    Ok(())
}

async fn jetstream(server: &Server) -> Result<Context> {
    Ok(jetstream::new(async_nats::connect(server.url()).await?))
}

async fn bucket(server: &Server) -> Result<Store> {
    let config = Config { bucket: "configs_playgrnd".into(), history: 64, ..Config::default() };
    Ok(jetstream(server).await?.create_key_value(config).await?)
}

/// Runs `config-admin` to its end.
fn admin(server: &Server, args: &[&str]) -> Result<Vec<String>> {
    let ended = Program::spawn(server.command(ADMIN).args(args))?.wait()?;
    ensure!(ended.success(), "{args:?}: {:?}", ended.stderr);
    Ok(ended.stdout)
}
