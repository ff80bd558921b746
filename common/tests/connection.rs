//! What `common` promises every program, tested on small ones.
//!
//! Each program is this test binary itself, started again with `PROGRAM` set.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use common::{CancellationToken, Connection, NatsArgs, Output};
use futures::StreamExt;
use testkit::{Link, Program, Server, Signal};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

const PROGRAM: &str = "PROGRAM";

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    /// The harness's own flags.
    #[arg(long)]
    exact: Option<String>,
    #[arg(long)]
    nocapture: bool,
}

/// The programs; in an ordinary test run nothing happens here.
#[test]
fn program() -> Result<()> {
    let code = match std::env::var(PROGRAM).as_deref() {
        Ok("subscriber") => common::run(subscriber),
        Ok("publisher") => common::run(publisher),
        Ok("responder") => common::run(responder),
        Ok("sleeper") => common::run(sleeper),
        Ok("sender") => common::run(sender),
        _ => return Ok(()),
    };
    // The harness has exit codes of its own.
    std::process::exit(i32::from(code != ExitCode::SUCCESS))
}

/// Prints what arrives on `news`, until it is stopped.
async fn subscriber(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("subscriber", &stop).await?;
    let news = nats.subscribe("news").await?;
    nats.flush().await?;
    let mut out = Output::new();
    out.line("ready").await?;
    let mut news = nats.drain_on_stop(news);
    while let Some(message) = news.next().await {
        out.line(String::from_utf8_lossy(&message.payload)).await?;
    }
    out.flush().await?;
    nats.permitted()
}

/// Publishes 1,000 messages on `news`.
async fn publisher(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("publisher", &stop).await?;
    for n in 0..1_000 {
        nats.publish("news", n.to_string().into()).await?;
    }
    nats.close().await
}

/// Replies to what arrives on `news`, until it is stopped.
async fn responder(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("responder", &stop).await?;
    nats.log_denied_publishes();
    let mut news = nats.drain_on_stop(nats.subscribe("news").await?);
    while let Some(message) = news.next().await {
        let reply = message.reply.context("no reply subject")?;
        nats.publish(reply, "yes".into()).await?;
    }
    nats.close().await
}

/// Publishes on `news` until it is stopped, and gives up if it is refused.
async fn sender(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("sender", &stop).await?;
    nats.give_up_if_refused();
    let mut pauses = tokio::time::interval(Duration::from_millis(20));
    while stop.run_until_cancelled(pauses.tick()).await.is_some() {
        nats.publish("news", "one".into()).await?;
    }
    nats.close().await
}

/// Does not care that it is told to stop.
async fn sleeper(args: Args, stop: CancellationToken) -> Result<()> {
    let _nats = args.nats.connect("sleeper", &stop).await?;
    let mut out = Output::new();
    out.line("ready").await?;
    stop.cancelled().await;
    out.line("told to stop").await?;
    std::future::pending().await
}

fn command(name: &str, server: &Server) -> Result<Command> {
    let mut command = server.command(std::env::current_exe()?);
    command.args(["--exact", "program", "--nocapture"]).env(PROGRAM, name);
    Ok(command)
}

fn start(name: &str, server: &Server) -> Result<Program> {
    Program::spawn(&mut command(name, server)?)
}

fn count(lines: &[String], text: &str) -> usize {
    lines.iter().filter(|line| line.contains(text)).count()
}

/// A client that has nothing of `common`.
async fn publish(server: &Server, text: &'static str) -> Result<()> {
    let client = async_nats::connect(server.url()).await?;
    client.publish("news", text.into()).await?;
    Ok(client.flush().await?)
}

#[tokio::test]
async fn a_subscriber_is_back_within_a_second_of_the_servers_return() -> Result<()> {
    let mut server = Server::start()?;
    // How long a subscriber takes that does not have to wait: the machine may be busy.
    let begun = Instant::now();
    let mut subscriber = start("subscriber", &server)?;
    subscriber.expect("ready")?;
    server.wait_for_subscriptions("news", 1)?;
    let baseline = begun.elapsed();
    // A client that waits longer after each attempt is late after each outage; a busy machine is not.
    let (mut late, mut outages) = (Duration::MAX, 0);
    while late > baseline + Duration::from_secs(1) && outages < 3 {
        server.kill()?;
        subscriber.expect_stderr("lost the connection")?;
        // Long enough for the library's own pauses, which double up to 4 s, to make it late.
        std::thread::sleep(Duration::from_millis(4_500));
        server.restart()?;
        let returned = Instant::now();
        server.wait_for_subscriptions("news", 1)?;
        late = late.min(returned.elapsed());
        subscriber.expect_stderr("again")?;
        outages += 1;
    }
    assert!(late <= baseline + Duration::from_secs(1), "{late:?}, baseline {baseline:?}");
    publish(&server, "extra").await?;
    subscriber.expect("extra")?;

    let ended = subscriber.stop()?;
    assert!(ended.success());
    assert_eq!(count(&ended.stderr, "lost the connection"), outages);
    assert_eq!(count(&ended.stderr, "connected to"), outages);
    assert_eq!(ended.stderr.len(), 2 * outages);
    Ok(())
}

#[tokio::test]
async fn a_cut_network_is_noticed_and_survived() -> Result<()> {
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    let mut subscriber = command("subscriber", &server)?;
    let mut subscriber = Program::spawn(subscriber.env("NATS_URL", link.url()))?;
    subscriber.expect("ready")?;

    // Silence: no connection is closed, so only the missing answers to pings tell.
    link.cut();
    let cut = Instant::now();
    subscriber.expect_stderr("lost the connection")?;
    // 15 s, and as late as a busy machine is. The library's own pings would take three minutes.
    assert!(cut.elapsed() < Duration::from_secs(40), "{:?}", cut.elapsed());
    link.heal();
    subscriber.expect_stderr("connected to")?;
    server.wait_for_subscriptions("news", 1)?;
    publish(&server, "extra").await?;
    subscriber.expect("extra")?;

    // A broken connection is noticed at once.
    link.reset();
    subscriber.expect_stderr("lost the connection")?;
    subscriber.expect_stderr("connected to")?;
    Ok(())
}

#[test]
fn each_signal_ends_a_program_with_success() -> Result<()> {
    let server = Server::start()?;
    for signal in [Signal::INT, Signal::TERM] {
        let mut subscriber = start("subscriber", &server)?;
        subscriber.expect("ready")?;
        subscriber.signal(signal)?;
        assert!(subscriber.wait()?.success());
    }
    Ok(())
}

#[test]
fn a_program_stops_in_good_order_while_the_server_is_away() -> Result<()> {
    let mut server = Server::start()?;
    let mut subscriber = start("subscriber", &server)?;
    subscriber.expect("ready")?;
    server.kill()?;
    subscriber.expect_stderr("lost the connection")?;
    let begun = Instant::now();
    assert!(subscriber.stop()?.success());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    Ok(())
}

#[test]
fn a_program_that_does_not_end_is_ended_and_fails() -> Result<()> {
    let server = Server::start()?;
    let mut sleeper = start("sleeper", &server)?;
    sleeper.expect("ready")?;
    let begun = Instant::now();
    let ended = sleeper.stop()?;
    assert_eq!(ended.code(), Some(1));
    assert!(ended.at.duration_since(begun) < Duration::from_secs(5), "{:?}", begun.elapsed());
    let [line] = &ended.stderr[..] else { bail!("{:?}", ended.stderr) };
    assert!(line.starts_with("error: not finished 4s"), "{line}");
    Ok(())
}

#[test]
fn a_second_signal_ends_a_program_at_once() -> Result<()> {
    let server = Server::start()?;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut sleeper = start("sleeper", &server)?;
        sleeper.expect("ready")?;
        sleeper.signal(signal)?;
        sleeper.expect("told to stop")?;
        sleeper.signal(signal)?;
        let ended = sleeper.wait()?;
        assert_eq!(ended.code(), Some(code));
        assert_eq!(ended.stderr, [""; 0]);
    }
    Ok(())
}

#[tokio::test]
async fn close_returns_when_the_server_has_everything() -> Result<()> {
    let server = Server::start()?;
    let client = async_nats::connect(server.url()).await?;
    let mut news = client.subscribe("news").await?;
    client.flush().await?;
    assert!(start("publisher", &server)?.wait()?.success());
    for n in 0..1_000 {
        let message = news.next().await.context("closed")?;
        ensure!(message.payload == n.to_string(), "{message:?} in place of {n}");
    }
    Ok(())
}

#[test]
fn the_server_lists_a_program_by_its_name() -> Result<()> {
    let server = Server::start()?;
    let mut subscriber = start("subscriber", &server)?;
    subscriber.expect("ready")?;
    assert_eq!(server.monitor("/connz")?["connections"][0]["name"], "subscriber");
    Ok(())
}

#[tokio::test]
async fn a_closed_pipe_ends_a_program_quietly() -> Result<()> {
    let server = Server::start()?;
    let mut shell = Command::new("/bin/sh");
    let script = r#"("$0" --exact program --nocapture; echo "ended with $?" >&2) | head -3"#;
    shell.args(["-c", script]).arg(std::env::current_exe()?);
    shell.env(PROGRAM, "subscriber").env("NATS_URL", server.url());
    let mut shell = Program::spawn(&mut shell)?;
    shell.expect("ready")?;
    // "ready" is the third line, with two of the harness before it.
    while shell.is_running()? {
        publish(&server, "extra").await?;
    }
    let ended = shell.wait()?;
    assert_eq!(ended.stderr, ["ended with 0"]);
    Ok(())
}

/// Users who may do little.
fn restricted(permissions: &str) -> Result<Server> {
    let user = format!("{{ user: guest, password: secret, permissions: {{ {permissions} }} }}");
    let users = format!("authorization {{ users: [{user}, {{ user: admin, password: secret }}] }}");
    Server::options().config(&users).start()
}

fn start_as_guest(name: &str, server: &Server) -> Result<Program> {
    Program::spawn(command(name, server)?.env("NATS_USER", "guest").env("NATS_PASSWORD", "secret"))
}

#[test]
fn a_denied_publish_ends_the_program() -> Result<()> {
    let server = restricted(r#"publish: "other""#)?;
    let ended = start_as_guest("publisher", &server)?.wait()?;
    assert_eq!(ended.code(), Some(1));
    let [line] = &ended.stderr[..] else { bail!("{:?}", ended.stderr) };
    for part in ["error: ", &server.url(), r#"Publish to "news""#, "--user"] {
        assert!(line.contains(part), "{line}");
    }
    Ok(())
}

#[test]
fn an_inbox_of_ones_own_is_not_needed() -> Result<()> {
    for permissions in [r#"publish: "news""#, r#"subscribe: "news""#] {
        let server = restricted(permissions)?;
        let ended = start_as_guest("publisher", &server)?.wait()?;
        assert!(ended.success(), "{permissions}: {:?}", ended.stderr);
        // All of them, and the last one to the inbox.
        assert_eq!(server.monitor("/varz")?["in_msgs"], 1_001, "{permissions}");
    }
    Ok(())
}

#[test]
fn a_denied_subscription_ends_the_program() -> Result<()> {
    let server = restricted(r#"subscribe: "other""#)?;
    let ended = start_as_guest("subscriber", &server)?.wait()?;
    assert_eq!(ended.code(), Some(1));
    assert!(ended.stderr.join("\n").contains(r#"Subscription to "news""#), "{:?}", ended.stderr);
    Ok(())
}

#[tokio::test]
async fn a_program_whose_password_is_changed_says_so_once_and_works_again_when_it_is_put_right()
-> Result<()> {
    let mut server = restricted("")?;
    let mut subscriber = start_as_guest("subscriber", &server)?;
    subscriber.expect("ready")?;
    let (right, changed) = ("guest, password: secret", "guest, password: changed");
    server.reconfigure(right, changed)?;
    subscriber.expect_stderr("refuses this connection: its user, password")?;
    // It tries again, less and less often. Without growing pauses, six attempts take half a second.
    let first = Instant::now();
    let refused = server.log().len();
    while count(&server.log()[refused..], "authentication error") < 6 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        ensure!(first.elapsed() < Duration::from_secs(60), "{:?}", server.log());
    }
    assert!(first.elapsed() > Duration::from_secs(2), "{:?}", first.elapsed());
    server.reconfigure(changed, right)?;
    server.wait_for_subscriptions("news", 1)?;
    subscriber.expect_stderr("connected to")?;
    let options =
        async_nats::ConnectOptions::with_user_and_password("admin".into(), "secret".into());
    let admin = options.connect(server.url()).await?;
    admin.publish("news", "good".into()).await?;
    admin.flush().await?;
    subscriber.expect("good")?;
    let ended = subscriber.stop()?;
    assert_eq!((ended.code(), ended.stderr.len()), (Some(0), 3), "{:?}", ended.stderr);
    Ok(())
}

#[test]
fn a_program_that_runs_once_gives_up_if_its_user_is_removed() -> Result<()> {
    let mut server = restricted("")?;
    let mut sender = start_as_guest("sender", &server)?;
    server.monitor_until("/varz", |varz| varz["in_msgs"].as_u64() > Some(0))?;
    server.reconfigure("user: guest", "user: other")?;
    let ended = sender.wait()?;
    let last = ended.stderr.last().context("no line")?;
    assert!(last.contains("refuses this connection: its user, password"), "{:?}", ended.stderr);
    assert_eq!(ended.code(), Some(1));
    Ok(())
}

#[tokio::test]
async fn a_hostile_reply_subject_does_not_end_a_responder() -> Result<()> {
    let server = restricted(r#"publish: "_INBOX.>""#)?;
    let mut responder = start_as_guest("responder", &server)?;
    server.wait_for_subscriptions("news", 1)?;
    let options =
        async_nats::ConnectOptions::with_user_and_password("admin".into(), "secret".into());
    let admin = options.connect(server.url()).await?;
    admin.publish_with_reply("news", "forbidden", "do you hear me?".into()).await?;
    admin.flush().await?;
    responder.expect_stderr("denied")?;
    let reply = admin.request("news", "do you still?".into()).await?;
    assert_eq!(reply.payload, "yes");
    assert!(responder.is_running()?);
    Ok(())
}

/// The flags of a program that connects to `url`.
fn args(url: &str) -> NatsArgs {
    Args::parse_from(["program", "--server", url]).nats
}

async fn connect(url: &str) -> Result<(Connection, CancellationToken)> {
    let stop = CancellationToken::new();
    Ok((args(url).connect("test", &stop).await?, stop))
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_process_know_nothing_of_each_other() -> Result<()> {
    let server = restricted(r#"publish: { deny: "news" }"#)?;
    let url = |user: &str| server.url().replace("//", &format!("//{user}:secret@"));
    let (guest, guest_stop) = connect(&url("guest")).await?;
    let (admin, admin_stop) = connect(&url("admin")).await?;
    let (closed, _) = connect(&url("admin")).await?;
    let mut news = admin.subscribe("news").await?;
    admin.round_trip().await?;
    closed.publish("news", "last words".into()).await?;
    closed.close().await?;

    let disconnected = guest.disconnected();
    guest.publish("news", "forbidden".into()).await?;
    // The denial ends whatever the program of this connection waits for …
    assert!(disconnected.await.to_string().contains("Publish to \"news\""));
    guest_stop.cancelled().await;
    assert!(guest.permitted().is_err());
    let error = guest.close().await.err().context("a denial is no success")?;
    assert!(error.to_string().contains("Publish to \"news\""), "{error:#}");
    // … and nothing else.
    assert!(!admin_stop.is_cancelled());
    admin.permitted()?;
    admin.publish("news", "allowed".into()).await?;
    for expected in ["last words", "allowed"] {
        assert_eq!(news.next().await.context("closed")?.payload, expected);
    }
    admin.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_is_known_to_it_alone() -> Result<()> {
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    let (far, _) = connect(&link.url()).await?;
    let (near, _) = connect(&server.url()).await?;
    let (lost, not_lost) = (far.disconnected(), near.disconnected());
    link.reset();
    assert!(lost.await.to_string().contains("the connection was lost"));
    near.flush().await?;
    assert!(futures::FutureExt::now_or_never(not_lost).is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn close_does_not_pretend_while_the_server_is_away() -> Result<()> {
    let mut server = Server::start()?;
    let (nats, stop) = connect(&server.url()).await?;
    let disconnected = nats.disconnected();
    server.kill()?;
    disconnected.await;
    nats.publish("news", "last words".into()).await?;
    stop.cancel();
    let begun = Instant::now();
    let error = nats.close().await.err().context("nobody has confirmed")?;
    assert!(error.to_string().contains("may not have arrived"), "{error:#}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_stopped_in_process_by_its_token() -> Result<()> {
    let server = Server::start()?;
    let stop = CancellationToken::new();
    let program = Args::parse_from(["program", "--server", &server.url()]);
    let running = tokio::spawn(responder(program, stop.clone()));
    let client = async_nats::connect(server.url()).await?;
    server.wait_for_subscriptions("news", 1)?;
    assert_eq!(client.request("news", "?".into()).await?.payload, "yes");
    stop.cancel();
    running.await?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_that_cannot_be_taken_in_time_is_counted() -> Result<()> {
    let server = Server::start()?;
    let (nats, stop) = connect(&server.url()).await?;
    let mut jobs = nats.drain_on_stop(nats.subscribe("jobs").await?);
    for _ in 0..100 {
        nats.publish("jobs", "job".into()).await?;
    }
    nats.round_trip().await?;
    stop.cancel();
    let begun = Instant::now();
    let mut taken = 0;
    while jobs.next().await.is_some() {
        taken += 1;
        // A handler that takes 100 ms.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!((1..50).contains(&taken), "{taken}");
    assert_eq!(taken + nats.undrained(), 100);
    Ok(())
}

/// Publishes 100,000 messages a second on `noise`, or what a busy machine can, until it is aborted.
fn make_noise(source: Connection) -> JoinHandle<Result<()>> {
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            for _ in 0..100 {
                source.publish("noise", "x".into()).await?;
            }
        }
    })
}

/// Stops a subscriber in full flow, and counts what it gets and what another one of its group gets.
async fn nothing_is_lost(round_trip: Duration, unrelated: bool) -> Result<()> {
    const COUNT: u64 = 20_000;
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    link.delay(round_trip / 2);
    let (leaver, stop) = connect(&link.url()).await?;
    let (stayer, _) = connect(&server.url()).await?;
    let group = || "workers".to_owned();
    let mut jobs = leaver.drain_on_stop(leaver.queue_subscribe("jobs", group()).await?);
    let mut others = stayer.queue_subscribe("jobs", group()).await?;
    let mut noise = leaver.subscribe("noise").await?;
    leaver.round_trip().await?;
    stayer.round_trip().await?;

    let (source, _) = connect(&server.url()).await?;
    let making_noise = unrelated.then(|| make_noise(source.clone()));
    if unrelated {
        server.monitor_until("/varz", |varz| varz["out_msgs"].as_u64() > Some(1_000))?;
    }
    let ignoring = tokio::spawn(async move { while noise.next().await.is_some() {} });
    let jobs_published = tokio::spawn(async move {
        for _ in 0..COUNT {
            source.publish("jobs", "job".into()).await?;
        }
        // Its connection closes with the last clone of it. What nats-server has not read by then, as
        // the noise keeps it busy, can be lost.
        source.round_trip().await
    });

    let counting = tokio::spawn(async move {
        let (mut taken, mut told) = (0, Instant::now());
        while jobs.next().await.is_some() {
            taken += 1;
            if taken == COUNT / 10 {
                told = Instant::now();
                stop.cancel();
            }
        }
        (taken, told.elapsed())
    });
    let (taken, draining) = counting.await?;
    jobs_published.await??;
    making_noise.inspect(JoinHandle::abort);
    ignoring.abort();
    let mut left = COUNT - taken;
    while left > 0 {
        let job = tokio::time::timeout(Duration::from_secs(20), others.next()).await;
        job.with_context(|| {
            let late = leaver.undrained();
            format!("{left} of {COUNT} are lost, {taken} taken in {draining:?}, {late} too late")
        })?;
        left -= 1;
    }
    assert!((COUNT / 10..COUNT).contains(&taken), "{taken}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_is_stopped_loses_nothing() -> Result<()> {
    nothing_is_lost(Duration::ZERO, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_is_stopped_loses_nothing_over_a_round_trip_of_500_ms() -> Result<()> {
    nothing_is_lost(Duration::from_millis(500), false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_is_stopped_loses_nothing_beside_unrelated_traffic() -> Result<()> {
    nothing_is_lost(Duration::ZERO, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn unrelated_traffic_does_not_delay_a_stop() -> Result<()> {
    let server = Server::start()?;
    let (nats, stop) = connect(&server.url()).await?;
    let mut jobs = nats.drain_on_stop(nats.subscribe("jobs").await?);
    let mut noise = nats.subscribe("noise").await?;
    let ignoring = tokio::spawn(async move { while noise.next().await.is_some() {} });
    let (source, _) = connect(&server.url()).await?;
    let making_noise = make_noise(source);
    // Both ends of the noise are running.
    server.monitor_until("/varz", |varz| varz["out_msgs"].as_u64() > Some(1_000))?;
    stop.cancel();
    assert!(jobs.next().await.is_none());
    // It ended because the echo was back, and not at its deadline.
    assert_eq!(nats.echoes_received(), 1);
    making_noise.abort();
    ignoring.abort();
    Ok(())
}
