//! The roles, one file for each.

pub mod config_admin;
pub mod config_app;
mod durable;
pub mod hello;
pub mod job_worker;
mod jobs;
pub mod log_publisher;
pub mod log_worker;
pub mod math_client;
pub mod math_server;
pub mod order_consumer;
pub mod order_publisher;
mod orders;
mod readings;
pub mod recorder;
pub mod sensor;
mod switch;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_nats::Client;
use futures::StreamExt;
use testkit::{Link, Server, Signal};

use crate::instance::Instance;
use crate::verdict::{Flaw, shown};
use crate::{Role, Trial};

/// Returns all roles.
#[must_use]
pub fn roles() -> &'static [&'static Role] {
    &[
        &hello::ROLE,
        &log_publisher::ROLE,
        &log_worker::ROLE,
        &math_client::ROLE,
        &math_server::ROLE,
        &order_publisher::ROLE,
        &order_consumer::ROLE,
        &config_app::ROLE,
        &config_admin::ROLE,
        &sensor::ROLE,
        &recorder::ROLE,
        &job_worker::ROLE,
    ]
}

/// Returns the role of this name.
#[must_use]
pub fn role(name: &str) -> Option<&'static Role> {
    roles().iter().copied().find(|role| role.name == name)
}

/// Kills nats-server, starts it again 1 s later, and says when.
///
/// Clients wait longer after each attempt in vain, at the end about as long as nats-server was
/// away: after 1 s all of them are back within the 5 s of the claims, on a busy machine too.
fn restarted(server: &mut Server) -> Result<Instant> {
    server.kill()?;
    thread::sleep(Duration::from_secs(1));
    server.restart()?;
    Ok(Instant::now())
}

/// Starts the program once.
fn starts(trial: &Trial, subject: &str) -> Result<String> {
    let server = trial.server()?;
    let begun = Instant::now();
    let _instance = trial.launch(&server).ready(subject)?;
    Ok(format!("subscribed after {}", shown(begun.elapsed())))
}

/// Waits until nats-server has everything that this client published, and the client all that it was sent
/// before.
async fn round_trip(nats: &Client) -> Result<()> {
    let inbox = nats.new_inbox();
    let mut echo = nats.subscribe(inbox.clone()).await?;
    nats.publish(inbox, "".into()).await?;
    echo.next().await.context("the connection is closed")?;
    Ok(())
}

/// Waits until a program has asked something of nats-server, and a second longer: what it makes of the
/// answer shows then.
fn has_asked(instance: &mut Instance, server: &Server) -> Result<()> {
    const STARTED: Duration = Duration::from_secs(30);
    instance.wait(STARTED, "it asked nats-server for anything", || {
        Ok((server.monitor("/varz")?["in_msgs"].as_u64() > Some(0)).then_some(()))
    })?;
    thread::sleep(Duration::from_secs(1));
    Ok(())
}

/// The configuration of a server that lets a program publish on any subject but this one.
fn without_publishing(subject: &str) -> String {
    format!(
        r#"authorization {{ users: [
            {{ user: candidate, password: prove, permissions: {{ publish: {{ deny: "{subject}" }} }} }}
        ] }}
        no_auth_user: candidate"#
    )
}

/// Runs a program to its end against a server that denies what it does.
fn denied(trial: &Trial, config: &str, flags: &str) -> Result<String> {
    const LIMIT: Duration = Duration::from_secs(5);
    let server = trial.server_with(config)?;
    // Far away: a program that only waits for a moment does not hear of the denial.
    let link = Link::to(server.port())?;
    link.delay(Duration::from_millis(250));
    let mut instance = trial.launch(&server).args(flags).url(&link.url()).start()?;
    let begun = Instant::now();
    let end = instance.ends_by_itself(LIMIT);
    let (code, saw) = match end {
        Ok(end) => (end.code, end.text),
        Err(_) => (None, format!("{} later it ran.", shown(begun.elapsed()))),
    };
    if code != Some(1) || instance.stderr().is_empty() {
        let said = instance.stdout().last().cloned().unwrap_or_default();
        bail!(
            Flaw::new("a denial looks like success")
                .did("nats-server did not let it publish, and each way to it took 250 ms.")
                .saw(format!("{saw} The last line of its stdout was `{said}`."))
                .likely("`publish` returns Ok before nats-server has seen the message. The one sign of a denial is an event of the connection, \"Permissions Violation\": wait until nats-server has answered, and look whether there was one.")
        );
    }
    Ok(format!("exit code 1 after {}", shown(begun.elapsed())))
}

/// Tells an idle program to stop, by each of the two signals.
fn ends(trial: &Trial, start: impl Fn(&Trial, &Server) -> Result<Instance>) -> Result<String> {
    let server = trial.server()?;
    let mut longest = Duration::ZERO;
    for (name, signal) in SIGNALS {
        let mut instance = start(trial, &server)?;
        instance.signal(signal);
        longest = longest.max(instance.ends_well((name, Instant::now()))?);
    }
    Ok(format!("ended within {}", shown(longest)))
}

/// Tells an idle program to stop while nats-server is away.
fn ends_without_nats_server(
    trial: &Trial,
    start: impl Fn(&Trial, &Server) -> Result<Instance>,
) -> Result<String> {
    let mut server = trial.server()?;
    let mut instance = start(trial, &server)?;
    server.kill()?;
    // Time to notice, and to be busy with connecting again.
    std::thread::sleep(Duration::from_millis(500));
    if let Some(end) = instance.end()? {
        bail!(
            Flaw::new("it ended with its connection")
                .did("nats-server was killed.")
                .saw(end)
                .likely(
                    "A connection that is lost is no reason to end: client libraries connect again."
                )
        );
    }
    instance.signal(Signal::TERM);
    let took = instance.ends_well(("SIGTERM while nats-server was away", Instant::now()))?;
    Ok(format!("ended after {}", shown(took)))
}

/// A copy that has had time to hear that its acknowledgement arrived: it may ask for that after each batch,
/// and a batch may last for a second or two.
fn confirmed(idle: Instance) -> Instance {
    thread::sleep(Duration::from_secs(4));
    idle
}

/// After an outage a program has to work again by then.
const BACK: Duration = Duration::from_secs(5);

/// Tries a program again and again until it works, and returns how long after `back` that was.
/// `did` is what was broken.
fn works_again(
    instance: &mut Instance,
    back: Instant,
    did: &str,
    mut works: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let flaw = |figure: String, saw: String| {
        Flaw::new(figure).did(did).saw(saw).likely(
            "The client library has stopped reconnecting, waits too long between attempts, or the program ended at the lost connection.",
        )
    };
    while !works()? {
        if let Some(end) = instance.end()? {
            bail!(flaw("it ended with the connection".into(), end));
        }
        if back.elapsed() > 4 * BACK {
            let after = shown(back.elapsed());
            bail!(flaw(
                format!("it does not work again in {after}"),
                "It runs, and does nothing.".into()
            ));
        }
    }
    let took = back.elapsed();
    if took > BACK {
        let took = shown(took);
        bail!(flaw(
            format!("it works again only after {took}"),
            format!("What came first came {took} after the outage.")
        ));
    }
    Ok(took)
}

const SIGNALS: [(&str, Signal); 2] = [("SIGTERM", Signal::TERM), ("SIGINT", Signal::INT)];
