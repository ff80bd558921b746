//! Requests that nats-server has handed to a program, and that the program has not read yet.

use std::path::Path;

use anyhow::{Context, Result};
use futures::StreamExt;
use testkit::{Link, Program, Server, Signal};

const SUBJECT: &str = "math.sum";
/// How many requests are handed over in each of these tests.
pub const HELD: usize = 64;

/// What keeps the program from reading its requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hold {
    /// The process stands still, as on a busy machine: the requests wait in its socket.
    Process,
    /// The network stands still until the program has ended: the requests are on their way.
    NetworkUntilTheEnd,
    /// The network stands still until the signal is sent.
    NetworkUntilTheSignal,
}

/// Starts the program, has nats-server hand it [`HELD`] requests, sends the signal before the
/// program has read one of them, and returns how many replies came.
pub async fn replies(program: impl AsRef<Path>, hold: Hold, signal: Signal) -> Result<usize> {
    let server = Server::start()?;
    let link = Link::to(server.port())?;
    let mut command = server.command(program.as_ref());
    if hold != Hold::Process {
        command.env("NATS_URL", link.url());
    }
    let mut math = Program::spawn(&mut command)?;
    math.expect("waiting for requests on math.sum")?;
    server.wait_for_subscriptions(SUBJECT, 1)?;
    match hold {
        Hold::Process => math.signal(Signal::STOP)?,
        _ => link.cut(),
    }

    let nats = async_nats::connect(server.url()).await?;
    let inbox = nats.new_inbox();
    let mut replies = nats.subscribe(inbox.clone()).await?;
    let already = handed_over(&server.monitor("/connz?subs=1")?);
    for _ in 0..HELD {
        let request = r#"{"x":17,"y":25}"#.into();
        nats.publish_with_reply(SUBJECT, inbox.clone(), request).await?;
    }
    nats.flush().await?;
    let all = already + HELD as u64;
    server.monitor_until("/connz?subs=1", |connz| handed_over(connz) == all)?;

    math.signal(signal)?;
    match hold {
        Hold::Process => math.signal(Signal::CONT)?,
        Hold::NetworkUntilTheSignal => link.heal(),
        Hold::NetworkUntilTheEnd => {}
    }
    math.wait()?;
    link.heal();
    // nats-server has seen the end, so it has passed on all replies that there are: they come
    // before a message that is published now.
    server.wait_for_subscriptions(SUBJECT, 0)?;
    nats.publish(inbox, "the last one".into()).await?;
    let mut count = 0;
    loop {
        let message = replies.next().await.context("the connection is closed")?;
        if message.payload == "the last one" {
            return Ok(count);
        }
        assert_eq!(message.payload, r#"{"result":42}"#);
        count += 1;
    }
}

/// How many messages nats-server has sent to the program that subscribes to `math.sum`.
fn handed_over(connz: &serde_json::Value) -> u64 {
    let connections = connz["connections"].as_array();
    let math = connections.into_iter().flatten().find(|connection| {
        let subscriptions = connection["subscriptions_list"].as_array();
        subscriptions.is_some_and(|list| list.iter().any(|subject| subject == SUBJECT))
    });
    math.and_then(|connection| connection["out_msgs"].as_u64()).unwrap_or_default()
}
