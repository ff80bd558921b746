//! `config-admin` and `config-app` when the server, the bucket or the network fails.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::kv::{Config, Store};
use async_nats::jetstream::stream::{self, StorageType};
use async_nats::jetstream::{self, Context, consumer};
use futures::StreamExt;
use testkit::{Link, Program, Server, Signal};

const ADMIN: &str = env!("CARGO_BIN_EXE_config-admin");
const APP: &str = env!("CARGO_BIN_EXE_config-app");
/// Within this time the app has to see what changed.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn of_200_changes_across_three_restarts_and_a_new_bucket_none_is_missed() -> Result<()> {
    let mut server = Server::start()?;
    let mut bucket = new_bucket(&server, StorageType::File).await?;
    let mut app = Program::spawn(&mut server.command(APP))?.timeout(SOON);
    app.expect("watching")?;

    let mut expected: Vec<String> = Vec::new();
    for phase in 0..8 {
        let seen = expected.len();
        for _ in 0..25 {
            let (value, word) =
                if expected.len().is_multiple_of(3) { ("false", "off") } else { ("true", "on") };
            let revision = bucket.put("site_maintenance", value.into()).await?;
            expected.push(format!("#{revision} site_maintenance is {word}"));
        }
        // The app may lag by as many changes as the bucket keeps, 64, and not by more.
        has_seen(&app, seen)?;
        match phase {
            // At once: the app may not have seen the last changes, nor be back for the next ones.
            0 | 2 | 6 => {
                server.kill()?;
                server.restart()?;
                bucket = jetstream(&server).await?.get_key_value("configs_playgrnd").await?;
            }
            // A bucket that is deleted takes with it what the app has not seen.
            4 => {
                has_seen(&app, expected.len())?;
                let jetstream = jetstream(&server).await?;
                jetstream.delete_key_value("configs_playgrnd").await?;
                bucket = new_bucket(&server, StorageType::File).await?;
            }
            _ => {}
        }
    }
    has_seen(&app, 200)?;
    let ended = app.stop()?;
    assert!(ended.success());
    let seen: Vec<String> = ended.stdout.into_iter().filter(|line| line.starts_with('#')).collect();
    assert_eq!(seen, expected, "each of them once and in order");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_each_restart_the_app_has_the_right_value_soon() -> Result<()> {
    let mut server = Server::start()?;
    let mut app = Program::spawn(&mut server.command(APP))?.timeout(SOON);
    app.expect("waiting for the bucket")?;
    for n in 1..=3 {
        let value = if n % 2 == 0 { "false" } else { "true" };
        let mut command = server.command(ADMIN);
        assert!(Program::spawn(command.args(["set", value]))?.wait()?.success());
        app.expect(&format!("#{n} site_maintenance is "))?;
        server.kill()?;
        app.expect_stderr("lost the connection")?;
        server.restart()?;
        app.expect_stderr("connected to")?;
    }
    // Coming back brings nothing twice.
    assert!(app.is_running()?);
    let ended = app.stop()?;
    let values = ended.stdout.iter().filter(|line| line.starts_with('#'));
    assert_eq!(values.count(), 3);
    for said in ["lost the connection", "connected to"] {
        let count = ended.stderr.iter().filter(|line| line.contains(said)).count();
        assert_eq!(count, 3, "{said}: {:?}", ended.stderr);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_lost_with_the_servers_memory_is_followed_again_soon() -> Result<()> {
    let mut server = Server::start()?;
    let bucket = new_bucket(&server, StorageType::Memory).await?;
    for _ in 0..10 {
        bucket.put("site_maintenance", "true".into()).await?;
    }
    let mut app = Program::spawn(&mut server.command(APP))?.timeout(SOON);
    app.expect("#10 site_maintenance is on")?;

    server.kill()?;
    server.restart()?;
    app.expect_stderr("connected to")?;
    app.expect_stderr("cannot watch the bucket configs_playgrnd, trying again")?;
    let bucket = new_bucket(&server, StorageType::Memory).await?;
    bucket.put("site_maintenance", "false".into()).await?;
    bucket.put("site_maintenance", "true".into()).await?;
    app.expect("#1 site_maintenance is off")?;
    app.expect("#2 site_maintenance is on")?;
    app.expect_stderr("was deleted and created again")?;
    assert!(app.stop()?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_by_itself_skips_what_a_bucket_made_anew_begins_with() -> Result<()> {
    let server = Server::start()?;
    let bucket = new_bucket(&server, StorageType::File).await?;
    let mut watch = bucket.watch_with_history("site_maintenance").await?;
    for _ in 0..10 {
        bucket.put("site_maintenance", "true".into()).await?;
        watch.next().await.context("the watch ended")??;
    }
    let jetstream = jetstream(&server).await?;
    jetstream.delete_key_value("configs_playgrnd").await?;
    let bucket = new_bucket(&server, StorageType::File).await?;
    bucket.put("site_maintenance", "false".into()).await?;
    // All it says, and not before ten seconds have passed.
    let silence = watch.next().await.context("the watch ended")?;
    assert!(silence.is_err(), "{silence:?}");
    for _ in 0..10 {
        bucket.put("site_maintenance", "false".into()).await?;
    }
    let entry = watch.next().await.context("the watch ended")??;
    assert_eq!(entry.revision, 11);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_restored_from_an_older_copy_counts_as_it_is() -> Result<()> {
    let mut server = Server::start()?;
    let bucket = new_bucket(&server, StorageType::File).await?;
    bucket.put("site_maintenance", "false".into()).await?;
    server.stop()?;
    let (store, copy) = (server.folder().join("store"), server.folder().join("copy"));
    copy_folder(&store, &copy)?;
    server.restart()?;

    let mut app = Program::spawn(&mut server.command(APP))?.timeout(SOON);
    app.expect("#1 site_maintenance is off")?;
    let bucket = jetstream(&server).await?.get_key_value("configs_playgrnd").await?;
    for _ in 0..3 {
        bucket.put("site_maintenance", "true".into()).await?;
    }
    app.expect("#4 site_maintenance is on")?;
    server.stop()?;
    fs::remove_dir_all(&store)?;
    copy_folder(&copy, &store)?;
    server.restart()?;
    app.expect("#1 site_maintenance is off")?;
    app.expect_stderr("was set back")?;
    assert!(app.stop()?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_rides_out_a_restart_and_writes_nothing_twice() -> Result<()> {
    let mut server = Server::start()?;
    let mut command = server.command(ADMIN);
    let mut admin = Program::spawn(command.args(["--cycles", "30", "--interval", "1ms"]))?;
    for revision in ["#12 ", "#31 ", "#44 "] {
        admin.expect(revision)?;
        server.kill()?;
        server.restart()?;
    }
    let ended = admin.wait()?;
    assert!(ended.success());
    for n in 1..=60 {
        let word = if n % 2 == 0 { "off" } else { "on" };
        assert_eq!(ended.stdout[n - 1], format!("#{n} site_maintenance is {word}"));
    }
    let bucket = jetstream(&server).await?.get_key_value("configs_playgrnd").await?;
    assert_eq!(bucket.stream.cached_info().state.last_sequence, 60);
    let overtaken = |line: &String| line.contains("another program");
    assert!(!ended.stderr.iter().any(overtaken), "{:?}", ended.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_acknowledgement_got_lost_is_not_written_twice() -> Result<()> {
    let server = Server::start()?;
    new_bucket(&server, StorageType::File).await?;
    for (args, count) in [(&["set", "true"][..], 1), (&["--cycles", "1", "--interval", "0s"], 3)] {
        let link = Link::to(server.port())?;
        link.delay(Duration::from_millis(200));
        let mut command = server.command(ADMIN);
        let mut admin = Program::spawn(command.args(args).args(["--server", &link.url()]))?;
        // Stored, and the acknowledgement on its way.
        let first = count.min(2);
        server.monitor_until("/jsz?streams=1", |jsz| {
            jsz["account_details"][0]["stream_detail"][0]["state"]["last_seq"] == first
        })?;
        link.reset();
        let ended = admin.wait()?;
        assert!(ended.success(), "{:?}", ended.stderr);
        assert!(ended.stdout[0].starts_with(&format!("#{first} ")), "{:?}", ended.stdout);
        let bucket = jetstream(&server).await?.get_key_value("configs_playgrnd").await?;
        assert_eq!(bucket.stream.cached_info().state.last_sequence, count);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_makes_a_bucket_again_that_is_gone() -> Result<()> {
    let mut server = Server::start()?;
    new_bucket(&server, StorageType::Memory).await?;
    let mut command = server.command(ADMIN);
    let mut admin = Program::spawn(command.args(["--cycles", "1", "--interval", "3s"]))?;
    admin.expect("#1 site_maintenance is on")?;
    server.kill()?;
    server.restart()?;
    // It reads before it writes: the switch of the new bucket is off.
    admin.expect("#1 site_maintenance is on")?;
    let ended = admin.wait()?;
    assert!(ended.success());
    assert!(
        ended.stderr.iter().any(|line| line.contains("created the bucket")),
        "{:?}",
        ended.stderr
    );
    Ok(())
}

#[test]
fn both_end_within_five_seconds_while_the_server_is_away() -> Result<()> {
    let mut server = Server::start()?;
    let mut admin = Program::spawn(server.command(ADMIN).args(["--interval", "1h"]))?;
    admin.expect("#1 site_maintenance is on")?;
    let mut app = Program::spawn(&mut server.command(APP))?;
    app.expect("#1 site_maintenance is on")?;
    server.stop()?;
    app.expect_stderr("lost the connection")?;
    admin.expect_stderr("lost the connection")?;
    let told = Instant::now();
    assert!(app.stop()?.success(), "an app has nothing to finish");
    assert!(told.elapsed() < SOON, "{:?}", told.elapsed());
    left_on(admin)
}

#[test]
fn an_admin_that_cannot_turn_the_switch_back_says_so_and_fails() -> Result<()> {
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    let mut command = server.command(ADMIN);
    let mut admin = Program::spawn(command.args(["--interval", "1h", "--server", &link.url()]))?;
    admin.expect("#1 site_maintenance is on")?;
    // Silence: the connection stays.
    link.cut();
    left_on(admin)
}

/// Stops an admin that cannot turn the switch back.
fn left_on(mut admin: Program) -> Result<()> {
    let told = Instant::now();
    let ended = admin.stop()?;
    assert!(told.elapsed() < SOON, "{:?}", told.elapsed());
    assert_eq!(ended.code(), Some(1));
    let errors: Vec<&String> =
        ended.stderr.iter().filter(|line| line.starts_with("error: ")).collect();
    ensure!(
        errors.len() == 1 && errors[0].contains("site_maintenance was left on"),
        "{:?}",
        ended.stderr
    );
    Ok(())
}

#[test]
fn an_admin_told_to_stop_in_an_outage_turns_the_switch_back_when_it_is_over() -> Result<()> {
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    let mut command = server.command(ADMIN);
    let mut admin = Program::spawn(command.args(["--interval", "1h", "--server", &link.url()]))?;
    admin.expect("#1 site_maintenance is on")?;
    link.cut();
    admin.signal(Signal::TERM)?;
    link.heal();
    let ended = admin.wait()?;
    assert!(ended.success());
    assert_eq!(ended.stdout[1], "#2 site_maintenance is off");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_is_not_confirmed_fails() -> Result<()> {
    let server = Server::start()?;
    let client = async_nats::connect(server.url()).await?;
    let mut calls = client.subscribe("$JS.API.>").await?;
    client.flush().await?;
    let link = Link::to(server.port())?;
    link.delay(Duration::from_millis(300));
    let mut command = server.command(ADMIN);
    let mut admin = Program::spawn(command.args(["set", "true", "--server", &link.url()]))?;
    // The answer to its first call is on its way, and does not arrive.
    calls.next().await.context("the subscription ended")?;
    link.cut();
    let told = Instant::now();
    let ended = admin.stop()?;
    assert!(told.elapsed() < SOON, "{:?}", told.elapsed());
    assert_eq!(ended.code(), Some(1));
    let last = ended.stderr.last().context("no line")?;
    assert!(last.contains("confirmed no change"), "{last}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_whose_reader_has_gone_turns_the_switch_back() -> Result<()> {
    let server = Server::start()?;
    let mut command = server.command("sh");
    let pipe = "{ \"$0\" --cycles 1000 --interval 1ms; echo ended with $? >&2; } | head -1";
    let ended = Program::spawn(command.args(["-c", pipe, ADMIN]))?.wait()?;
    assert_eq!(ended.stdout, ["#1 site_maintenance is on"]);
    assert_eq!(ended.stderr.last().map(String::as_str), Some("ended with 0"));
    let bucket = jetstream(&server).await?.get_key_value("configs_playgrnd").await?;
    assert_eq!(bucket.get("site_maintenance").await?, Some("false".into()));
    let writes = bucket.stream.cached_info().state.last_sequence;
    assert!(writes < 100, "it went on for {writes} writes");
    Ok(())
}

#[test]
fn without_jetstream_both_end_at_once_and_say_so() -> Result<()> {
    let server = Server::options().no_jetstream().start()?;
    every_way_of_starting(|args| {
        let line = one_line(server.command(args[0]).args(&args[1..]))?;
        ensure!(line.contains("JetStream is off"), "{line}");
        ensure!(line.contains(&format!("127.0.0.1:{}", server.port())), "{line}");
        Ok(())
    })?;
    let account = "accounts { A { users: [{user: a, password: a}] } }";
    let server = Server::options().config(account).start()?;
    every_way_of_starting(|args| {
        let mut command = server.command(args[0]);
        let line = one_line(command.args(&args[1..]).args(["--user", "a", "--password", "a"]))?;
        ensure!(line.contains("JetStream is off"), "{line}");
        Ok(())
    })
}

#[test]
fn without_permission_both_end_and_say_what_was_denied() -> Result<()> {
    let users = |deny: &str| {
        format!(
            "authorization {{ users: [{{user: b, password: b}},
                {{user: a, password: a, permissions: {{{deny}}}}}] }}"
        )
    };
    let deny = users("publish: {deny: \"$JS.API.>\"}");
    let server = Server::options().config(&deny).start()?;
    every_way_of_starting(|args| {
        let mut command = server.command(args[0]);
        let line = one_line(command.args(&args[1..]).args(["--user", "a", "--password", "a"]))?;
        ensure!(line.contains("$JS.API.STREAM.INFO.KV_configs_playgrnd"), "{line}");
        Ok(())
    })?;
    // May look, but not write.
    let deny = users("publish: {deny: \"$KV.>\"}");
    let server = Server::options().config(&deny).start()?;
    let set = |user: &'static str| {
        let mut command = server.command(ADMIN);
        command.args(["set", "true", "--user", user, "--password", user]);
        command
    };
    assert!(Program::spawn(&mut set("b"))?.wait()?.success());
    let line = one_line(&mut set("a"))?;
    ensure!(line.contains("$KV.configs_playgrnd.site_maintenance"), "{line}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_said_in_one_line_and_nothing_is_pretended() -> Result<()> {
    // No room for another bucket.
    let account = "accounts { A { jetstream: {max_streams: 1}, users: [{user: a, password: a}] } }";
    let server = Server::options().config(account).start()?;
    let options = async_nats::ConnectOptions::with_user_and_password("a".into(), "a".into());
    let other = jetstream::new(options.connect(server.url()).await?);
    other.create_key_value(config("other", StorageType::File)).await?;
    let mut command = server.command(ADMIN);
    let line = one_line(command.args(["set", "true", "--user", "a", "--password", "a"]))?;
    ensure!(line.contains("maximum number of streams reached"), "{line}");

    // No room in the bucket.
    let server = Server::start()?;
    let mut full = config("configs_playgrnd", StorageType::File);
    full.max_bytes = 10;
    jetstream(&server).await?.create_key_value(full).await?;
    for args in [&["set", "true"][..], &["--cycles", "1"]] {
        let line = one_line(server.command(ADMIN).args(args))?;
        ensure!(line.contains("maximum bytes exceeded"), "{line}");
    }

    // No room for another watch.
    let server = Server::start()?;
    let jetstream = jetstream(&server).await?;
    let stream = jetstream
        .create_stream(stream::Config {
            name: "KV_configs_playgrnd".into(),
            subjects: vec!["$KV.configs_playgrnd.>".into()],
            max_messages_per_subject: 64,
            max_consumers: 1,
            allow_direct: true,
            ..stream::Config::default()
        })
        .await?;
    let config = consumer::pull::Config { durable_name: Some("x".into()), ..Default::default() };
    stream.create_consumer(config).await?;
    let line = one_line(&mut server.command(APP))?;
    ensure!(line.contains("maximum consumers limit reached"), "{line}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_the_place_of_the_bucket_is_an_error() -> Result<()> {
    let server = Server::start()?;
    let config = stream::Config { name: "KV_configs_playgrnd".into(), ..Default::default() };
    jetstream(&server).await?.create_stream(config).await?;
    every_way_of_starting(|args| {
        let line = one_line(server.command(args[0]).args(&args[1..]))?;
        ensure!(line.contains("is no key-value bucket"), "{line}");
        Ok(())
    })
}

fn every_way_of_starting(run: impl Fn(&[&str]) -> Result<()>) -> Result<()> {
    let ways: [&[&str]; 4] = [&[APP], &[ADMIN], &[ADMIN, "set", "true"], &[ADMIN, "history"]];
    ways.into_iter().try_for_each(run)
}

/// Runs a program that fails at once, and returns what it says: one line.
fn one_line(command: &mut Command) -> Result<String> {
    let started = Instant::now();
    let ended = Program::spawn(command)?.wait()?;
    assert_eq!(ended.code(), Some(1));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(ended.stdout, [""; 0]);
    assert_eq!(ended.stderr.len(), 1, "{:?}", ended.stderr);
    ended.stderr.into_iter().next().context("nothing reported")
}

async fn jetstream(server: &Server) -> Result<Context> {
    Ok(jetstream::new(async_nats::connect(server.url()).await?))
}

fn config(bucket: &str, storage: StorageType) -> Config {
    Config { bucket: bucket.into(), history: 64, storage, ..Config::default() }
}

async fn new_bucket(server: &Server, storage: StorageType) -> Result<Store> {
    let config = config("configs_playgrnd", storage);
    Ok(jetstream(server).await?.create_key_value(config).await?)
}

fn has_seen(app: &Program, changes: usize) -> Result<()> {
    let seen = |lines: &[String]| lines.iter().filter(|line| line.starts_with('#')).count();
    ensure!(app.wait_for(|lines| seen(lines) >= changes), "not {changes} in time");
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    ensure!(Command::new("cp").arg("-a").args([from, to]).status()?.success());
    Ok(())
}
