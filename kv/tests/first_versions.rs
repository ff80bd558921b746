//! What the first versions do, and what they lose: the README states it, and these tests measure it
//! on the very examples.

use std::fs;
use std::io::{Write as _, stderr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::header::NATS_SEQUENCE;
use async_nats::jetstream::kv::{Config, Store};
use async_nats::jetstream::{self, Context};
use futures::StreamExt;
use testkit::{Link, Program, Server};

const ADMIN: &str = env!("CARGO_BIN_EXE_config-admin");
const APP: &str = env!("CARGO_BIN_EXE_config-app");
/// A watch waits 10 s for the heartbeats of its consumer, and at most 10 s between two attempts to
/// make a new one.
const LIBRARY_WAITS: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn the_first_app_prints_what_the_service_admin_writes() -> Result<()> {
    let server = Server::start()?;
    run(&server, ADMIN, &["set", "true"])?;
    let mut app = Program::spawn(&mut server.command(testkit::example("first-config-app")))?;
    app.expect("#1 site_maintenance is on")?;
    run(&server, ADMIN, &["--cycles", "10", "--interval", "0s"])?;
    app.expect("#21 site_maintenance is on")?;
    let expected = (1..=21).map(|n| line(n, n % 2 == 1));
    assert_eq!(app.stdout(), expected.collect::<Vec<_>>());
    Ok(())
}

#[test]
fn the_service_app_prints_what_the_first_admin_writes() -> Result<()> {
    let server = Server::start()?;
    let mut app = Program::spawn(&mut server.command(APP))?;
    app.expect("waiting for the bucket")?;
    let mut admin = Program::spawn(&mut server.command(testkit::example("first-config-admin")))?;
    for n in 1..=3 {
        admin.expect(&line(n, n % 2 == 1))?;
        app.expect(&line(n, n % 2 == 1))?;
    }
    assert!(app.stop()?.success());
    Ok(())
}

#[test]
fn the_first_app_ends_if_there_is_no_bucket_yet() -> Result<()> {
    let server = Server::start()?;
    let ended =
        Program::spawn(&mut server.command(testkit::example("first-config-app")))?.wait()?;
    assert_eq!(ended.code(), Some(1));
    assert_eq!(ended.stdout, [""; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_app_misses_a_change_between_get_and_watch() -> Result<()> {
    let server = Server::start()?;
    let client = async_nats::connect(server.url()).await?;
    let bucket = new_bucket(&jetstream::new(client.clone())).await?;
    bucket.put("site_maintenance", "false".into()).await?;

    // The answer to the app's question is seen here before it is on the link. The app's next
    // question comes a second later at the earliest, and finds the link cut.
    let mut answers = client.subscribe("_INBOX.>").await?;
    client.flush().await?;
    let link = Link::to(server.port())?;
    link.delay(Duration::from_millis(500));
    let mut command = server.command(testkit::example("first-config-app"));
    let mut app = Program::spawn(command.env("NATS_URL", link.url()))?;
    loop {
        let answer = answers.next().await.context("the subscription ended")?;
        if answer.headers.is_some_and(|headers| headers.get(NATS_SEQUENCE).is_some()) {
            break;
        }
    }
    link.cut();
    bucket.put("site_maintenance", "true".into()).await?;
    link.delay(Duration::ZERO);
    link.heal();

    app.expect(&line(1, false))?;
    bucket.put("site_maintenance", "true".into()).await?;
    app.expect(&line(3, true))?;
    assert_eq!(app.stdout(), [line(1, false), line(3, true)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_app_is_silent_for_ten_seconds_in_a_bucket_made_anew_and_ends() -> Result<()> {
    let server = Server::start()?;
    let mut app = first_app_at_revision_10(&server).await?;
    let deleted = Instant::now();
    run(&server, testkit::example("delete-bucket"), &[])?;
    let jetstream = jetstream::new(async_nats::connect(server.url()).await?);
    let bucket = new_bucket(&jetstream).await?;
    for _ in 1..=20 {
        bucket.put("site_maintenance", "false".into()).await?;
    }
    let ended = app.wait()?;
    assert_eq!(ended.code(), Some(1));
    assert_eq!(ended.stdout.last(), Some(&line(10, true)), "of 20 changes not one");
    ensure!(ended.stderr.len() == 1 && ended.stderr[0].contains("MissingHeartbeat"));
    writeln!(
        stderr(),
        "20 changes in a bucket made anew: 0 printed, and the end after {:.1?}",
        deleted.elapsed()
    )?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_with_an_empty_disk_the_first_app_is_silent_up_to_revision_10() -> Result<()>
{
    let mut server = Server::start()?;
    let mut app = first_app_at_revision_10(&server).await?;
    server.kill()?;
    fs::remove_dir_all(server.folder().join("store"))?;
    server.restart()?;
    let jetstream = jetstream::new(async_nats::connect(server.url()).await?);
    let bucket = new_bucket(&jetstream).await?;
    for _ in 1..=10 {
        bucket.put("site_maintenance", "false".into()).await?;
    }
    // Connected, and watching: the eleventh change arrives.
    wait_for_watches(&server, 1)?;
    bucket.put("site_maintenance", "false".into()).await?;
    app.expect("is off")?;
    let printed = app.stdout();
    assert_eq!(printed.last(), Some(&line(11, false)));
    assert_eq!(printed.len(), 11, "{printed:?}");
    assert!(app.is_running()?);
    assert_eq!(app.stderr(), [""; 0], "no error either");
    writeln!(stderr(), "11 changes after a restart with an empty disk: 1 printed")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_first_admins_at_once_make_writes_that_change_nothing() -> Result<()> {
    let server = Server::start()?;
    let jetstream = jetstream::new(async_nats::connect(server.url()).await?);
    let bucket = new_bucket(&jetstream).await?;
    let mut changes = bucket.watch_with_history("site_maintenance").await?;
    let mut one = Program::spawn(&mut server.command(testkit::example("first-config-admin")))?;
    one.expect(&line(1, true))?;
    let _other = Program::spawn(&mut server.command(testkit::example("first-config-admin")))?;

    let (mut was, mut same) = (false, 0);
    for _ in 0..11 {
        let entry = changes.next().await.context("the watch ended")??;
        let is = entry.value == "true";
        same += u32::from(was == is);
        was = is;
    }
    // The second admin writes what the first one has written, or will write next, whenever it
    // began.
    writeln!(stderr(), "11 writes of two first admins: {same} of them changed nothing")?;
    assert!(same > 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_admin_overwrites_a_change_that_it_has_not_seen() -> Result<()> {
    let server = Server::start()?;
    let client = async_nats::connect(server.url()).await?;
    let bucket = new_bucket(&jetstream::new(client.clone())).await?;
    // The admin reads "off", and writes a second later.
    let mut reads = client.subscribe("$JS.API.DIRECT.GET.>").await?;
    let mut replies = client.subscribe("_INBOX.>").await?;
    client.flush().await?;
    let mut admin = Program::spawn(&mut server.command(testkit::example("first-config-admin")))?;
    let read = reads.next().await.context("the subscription ended")?.reply.context("no reply")?;
    while replies.next().await.context("the subscription ended")?.subject != read {}
    bucket.put("site_maintenance", "true".into()).await?;
    admin.expect(&line(2, true))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_admin_told_to_stop_leaves_the_site_in_maintenance() -> Result<()> {
    let server = Server::start()?;
    let mut admin = Program::spawn(&mut server.command(testkit::example("first-config-admin")))?;
    // It is on for a second: time enough.
    admin.expect(&line(1, true))?;
    let ended = admin.stop()?;
    assert!(!ended.success());
    let jetstream = jetstream::new(async_nats::connect(server.url()).await?);
    let bucket = jetstream.get_key_value("configs_playgrnd").await?;
    assert_eq!(bucket.get("site_maintenance").await?, Some("true".into()));
    Ok(())
}

fn line(revision: u32, on: bool) -> String {
    let state = if on { "on" } else { "off" };
    format!("#{revision} site_maintenance is {state}")
}

/// Runs a program to its end.
fn run(server: &Server, program: impl Into<PathBuf>, args: &[&str]) -> Result<()> {
    let ended = Program::spawn(server.command(program).args(args))?.wait()?;
    ensure!(ended.success(), "{args:?}: {:?}", ended.stderr);
    Ok(())
}

async fn new_bucket(jetstream: &Context) -> Result<Store> {
    let config = Config { bucket: "configs_playgrnd".into(), history: 64, ..Config::default() };
    Ok(jetstream.create_key_value(config).await?)
}

/// A first app that has printed ten changes.
async fn first_app_at_revision_10(server: &Server) -> Result<Program> {
    let jetstream = jetstream::new(async_nats::connect(server.url()).await?);
    let bucket = new_bucket(&jetstream).await?;
    bucket.put("site_maintenance", "true".into()).await?;
    let mut command = server.command(testkit::example("first-config-app"));
    let mut app = Program::spawn(&mut command)?.timeout(LIBRARY_WAITS);
    app.expect(&line(1, true))?;
    for _ in 2..=10 {
        bucket.put("site_maintenance", "true".into()).await?;
    }
    app.expect(&line(10, true))?;
    Ok(app)
}

/// Waits until the bucket has that many watches.
fn wait_for_watches(server: &Server, count: u64) -> Result<()> {
    server.monitor_until("/jsz", |jsz| jsz["consumers"] == count)?;
    Ok(())
}
