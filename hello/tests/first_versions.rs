//! What the first version of `hello` does, and the service under the same fault.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use anyhow::{Result, ensure};
use testkit::{Program, Server, example};

const HELLO: &str = env!("CARGO_BIN_EXE_hello");

#[test]
fn the_first_version_prints_its_own_message() -> Result<()> {
    let server = Server::start()?;
    let ended = Program::spawn(&mut server.command(example("first-hello")))?.wait()?;
    assert!(ended.success(), "{ended:?}");
    assert_eq!(ended.stdout, ["Hello World!"]);
    Ok(())
}

#[test]
fn the_first_version_hears_the_service() -> Result<()> {
    let server = server_that_denies("publish: { deny: hello }")?;
    let mut first = Program::spawn(&mut server.command(example("first-hello")))?;
    server.wait_for_subscriptions("hello", 1)?;
    let mut service = server.command(HELLO);
    let service = service.args(["--user", "other", "--password", "other"]);
    assert!(Program::spawn(service)?.wait()?.success());
    assert_eq!(first.wait()?.stdout, ["Hello World!"]);
    Ok(())
}

#[test]
fn the_first_version_takes_a_strangers_message_for_its_own() -> Result<()> {
    // Its own message never arrives, for it may not publish, and nobody tells it.
    let server = server_that_denies("publish: { deny: hello }")?;
    let mut first = Program::spawn(&mut server.command(example("first-hello")))?;
    server.wait_for_subscriptions("hello", 1)?;
    a_stranger_publishes(&server, "Goodbye")?;
    let ended = first.wait()?;
    assert!(ended.success(), "{ended:?}");
    assert_eq!(ended.stdout, ["Goodbye"]);
    Ok(())
}

#[test]
fn a_service_that_may_not_publish_says_so() -> Result<()> {
    let server = server_that_denies("publish: { deny: hello }")?;
    let ended = Program::spawn(&mut server.command(HELLO))?.wait()?;
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    assert_eq!(ended.stdout, [""; 0]);
    assert!(ended.stderr[0].contains("\"hello\""), "{ended:?}");
    Ok(())
}

#[test]
fn the_first_version_waits_for_ever_where_the_service_says_why() -> Result<()> {
    let server = server_that_denies("subscribe: { deny: hello }")?;
    let first = Program::spawn(&mut server.command(example("first-hello")))?;
    // Both publish and get nothing back.
    server.monitor_until("/varz", |varz| varz["in_msgs"].as_u64() >= Some(1))?;
    let ended = Program::spawn(&mut server.command(HELLO))?.wait()?;
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    assert!(ended.stderr[0].contains("\"hello\""), "{ended:?}");
    assert!(first.is_running()?);
    assert_eq!(first.stderr(), [""; 0]);
    Ok(())
}

#[test]
fn a_message_that_does_not_come_back_is_an_error() -> Result<()> {
    // nats-server changes the subject: the message goes where no program subscribes.
    let server = Server::options().config("mappings: { hello: elsewhere }").start()?;
    let first = Program::spawn(&mut server.command(example("first-hello")))?;
    server.monitor_until("/varz", |varz| varz["in_msgs"].as_u64() >= Some(1))?;
    let ended = Program::spawn(&mut server.command(HELLO))?.wait()?;
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    assert!(ended.stderr[0].contains("did not come back"), "{ended:?}");
    assert!(first.is_running()?);
    Ok(())
}

/// A server whose users may do all but one thing; `other` may do that as well.
fn server_that_denies(permission: &str) -> Result<Server> {
    let config = format!(
        "authorization {{ users: [
            {{ user: some, password: some, permissions: {{ {permission} }} }}
            {{ user: other, password: other }}
        ] }}
        no_auth_user: some"
    );
    Server::options().config(&config).start()
}

fn a_stranger_publishes(server: &Server, payload: &str) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port()))?;
    let length = payload.len();
    write!(
        stream,
        "CONNECT {{\"verbose\":false,\"user\":\"other\",\"pass\":\"other\"}}\r\n\
         PUB hello {length}\r\n{payload}\r\nPING\r\n"
    )?;
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    ensure!(lines.any(|line| line == "PONG"), "nats-server hung up");
    Ok(())
}
