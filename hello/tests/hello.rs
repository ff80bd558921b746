//! `hello` against a real server.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use anyhow::{Context, Result};
use futures::StreamExt;
use testkit::{Program, Server};

const HELLO: &str = env!("CARGO_BIN_EXE_hello");

#[test]
fn it_prints_its_own_message_and_nothing_else() -> Result<()> {
    let server = Server::start()?;
    let ended = Program::spawn(&mut server.command(HELLO))?.wait()?;
    assert!(ended.success());
    assert_eq!(ended.stdout, ["Hello World!"]);
    assert_eq!(ended.stderr, [""; 0]);
    Ok(())
}

#[test]
fn strangers_on_the_same_subject_do_no_harm() -> Result<()> {
    let server = Server::start()?;
    // A stranger who never stops: each PONG is the sign for more. (Without that pause the server
    // would soon hold more for us than a debug build reads in the time it has.)
    let mut stranger = TcpStream::connect(("127.0.0.1", server.port()))?;
    let mut lines = BufReader::new(stranger.try_clone()?).lines();
    stranger.write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n")?;
    lines.find(|line| line.as_ref().is_ok_and(|line| line == "PONG"));
    let talking = std::thread::spawn(move || {
        let rubbish = b"PUB hello 4\r\n\xff\xfe\0\n\r\nPUB hello 13\r\nHello World!!\r\nPING\r\n";
        while stranger.write_all(rubbish).is_ok() && lines.next().is_some_and(|line| line.is_ok()) {
        }
    });
    for _ in 0..5 {
        let ended = Program::spawn(&mut server.command(HELLO))?.wait()?;
        assert!(ended.success(), "{:?}", ended.stderr);
        assert_eq!(ended.stdout, ["Hello World!"]);
    }
    drop(server);
    assert!(talking.join().is_ok());
    Ok(())
}

#[tokio::test]
async fn what_is_published_while_nobody_listens_is_gone() -> Result<()> {
    let server = Server::start()?;
    let client = async_nats::connect(server.url()).await?;
    client.publish("hello", "too early".into()).await?;
    let mut messages = client.subscribe("hello").await?;
    client.publish("hello", "in time".into()).await?;
    let first = messages.next().await.context("closed")?;
    assert_eq!(first.payload, "in time");
    Ok(())
}

#[test]
fn what_is_published_right_before_the_end_never_leaves() -> Result<()> {
    let server = Server::start()?;
    // On one thread, the task of the connection has no turn between the last `publish` and the end.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = async_nats::connect(server.url()).await?;
        for _ in 0..30 {
            client.publish("hello", "Hello World!".into()).await?;
        }
        anyhow::Ok(())
    })?;
    // As the end of the process does.
    drop(runtime);
    server.monitor_until("/varz", |varz| varz["connections"] == 0)?;
    assert_eq!(server.monitor("/varz")?["in_msgs"], 0);
    Ok(())
}

#[test]
fn a_closed_pipe_is_no_error() -> Result<()> {
    let server = Server::start()?;
    let mut shell = server.command("/bin/sh");
    shell.args(["-c", r#""$0" >&-; echo "ended with $?""#, HELLO]);
    let ended = Program::spawn(&mut shell)?.wait()?;
    assert_eq!(ended.stdout, ["ended with 0"], "{:?}", ended.stderr);
    Ok(())
}
