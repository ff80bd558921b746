//! What `common` promises every program, seen on two small ones.
//!
//! Each program is this test binary itself, started again with `PROGRAM` set.

use std::future::Future;
use std::io::{Write, stdout};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use futures::StreamExt;
use testkit::{Link, Program, Server, Signal};

const PROGRAM: &str = "PROGRAM";

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
}

/// The programs; in an ordinary test run nothing happens here.
#[test]
fn program() -> Result<()> {
    let code = match std::env::var(PROGRAM).as_deref() {
        Ok("subscriber") => run(subscriber),
        Ok("publisher") => run(publisher),
        Ok("responder") => run(responder),
        _ => return Ok(()),
    };
    // The harness has exit codes of its own.
    std::process::exit(i32::from(code != ExitCode::SUCCESS))
}

fn run<F: Future<Output = Result<()>>>(program: fn(Args) -> F) -> ExitCode {
    common::run(program(Args::parse_from(["program"])))
}

/// Prints what arrives on `news`, until it is stopped.
async fn subscriber(args: Args) -> Result<()> {
    let client = args.nats.connect("subscriber").await?;
    let mut news = client.subscribe("news").await?;
    client.flush().await?;
    writeln!(stdout(), "ready")?;
    loop {
        tokio::select! {
            Some(message) = news.next() => {
                writeln!(stdout(), "{}", String::from_utf8_lossy(&message.payload))?;
            }
            () = common::shutdown() => break,
        }
    }
    common::close(&client).await
}

/// Publishes 1,000 messages on `news`.
async fn publisher(args: Args) -> Result<()> {
    let client = args.nats.connect("publisher").await?;
    for n in 0..1_000 {
        client.publish("news", n.to_string().into()).await?;
    }
    common::close(&client).await
}

/// Replies to what arrives on `news`, until it is stopped.
async fn responder(args: Args) -> Result<()> {
    let client = args.nats.connect_responder("responder").await?;
    let mut news = client.subscribe("news").await?;
    while let Some(message) = news.next().await {
        writeln!(stdout(), "asked")?;
        client
            .publish(message.reply.context("no reply subject")?, "yes".into())
            .await?;
    }
    Ok(())
}

fn command(name: &str, server: &Server) -> Result<Command> {
    let mut command = server.command(std::env::current_exe()?);
    command
        .args(["--exact", "program", "--nocapture"])
        .env(PROGRAM, name);
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
    let mut subscriber = start("subscriber", &server)?;
    subscriber.expect("ready")?;
    server.kill()?;
    subscriber.expect_stderr("lost the connection")?;
    // What is tested: pauses between attempts must not have grown by now.
    std::thread::sleep(Duration::from_secs(3));
    server.restart()?;
    let returned = Instant::now();
    server.wait_for_subscriptions("news", 1)?;
    let late = returned.elapsed();
    assert!(late < Duration::from_secs(1), "{late:?}");
    publish(&server, "extra").await?;
    subscriber.expect("extra")?;

    let ended = subscriber.stop()?;
    assert!(ended.success());
    assert_eq!(count(&ended.stderr, "lost the connection"), 1);
    assert_eq!(count(&ended.stderr, "connected to"), 1);
    assert_eq!(ended.stderr.len(), 2);
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
    assert!(
        cut.elapsed() < Duration::from_secs(17),
        "{:?}",
        cut.elapsed()
    );
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
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    Ok(())
}

#[test]
fn a_program_that_does_not_end_is_left_where_it_is() -> Result<()> {
    let server = Server::start()?;
    let mut responder = start("responder", &server)?;
    server.wait_for_subscriptions("news", 1)?;
    let begun = Instant::now();
    let ended = responder.stop()?;
    assert!(ended.success());
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(count(&ended.stderr, "not done"), 1, "{:?}", ended.stderr);
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
        ensure!(
            message.payload == n.to_string(),
            "{message:?} in place of {n}"
        );
    }
    Ok(())
}

#[test]
fn the_server_lists_a_program_by_its_name() -> Result<()> {
    let server = Server::start()?;
    let mut subscriber = start("subscriber", &server)?;
    subscriber.expect("ready")?;
    assert_eq!(
        server.monitor("/connz")?["connections"][0]["name"],
        "subscriber"
    );
    Ok(())
}

#[tokio::test]
async fn a_closed_pipe_ends_a_program_quietly() -> Result<()> {
    let server = Server::start()?;
    let mut shell = Command::new("/bin/sh");
    let script = r#"("$0" --exact program --nocapture; echo "ended with $?" >&2) | head -3"#;
    shell.args(["-c", script]).arg(std::env::current_exe()?);
    shell
        .env(PROGRAM, "subscriber")
        .env("NATS_URL", server.url());
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
    Program::spawn(
        command(name, server)?
            .env("NATS_USER", "guest")
            .env("NATS_PASSWORD", "secret"),
    )
}

#[test]
fn a_denied_publish_ends_the_program() -> Result<()> {
    let server = restricted(r#"publish: "other""#)?;
    let ended = start_as_guest("publisher", &server)?.wait()?;
    assert_eq!(ended.code(), Some(1));
    let [line] = &ended.stderr[..] else {
        bail!("{:?}", ended.stderr)
    };
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
    assert!(
        ended
            .stderr
            .join("\n")
            .contains(r#"Subscription to "news""#),
        "{:?}",
        ended.stderr
    );
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
    admin
        .publish_with_reply("news", "forbidden", "do you hear me?".into())
        .await?;
    admin.flush().await?;
    responder.expect_stderr("denied")?;
    let reply = admin.request("news", "do you still?".into()).await?;
    assert_eq!(reply.payload, "yes");
    assert!(responder.is_running()?);
    Ok(())
}
