//! What the page is told, and that its buttons do the real thing.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::Server;

use crate::events::counter;
use crate::process::Backend;

/// Asks the monitoring of the private server, whose address is in its configuration.
fn monitor(backend: &Backend, path: &str) -> Result<Value> {
    let started = backend.started()?;
    let server = started.iter().find(|(_, command)| command.contains("nats.conf"));
    let words = &server.context("no nats-server")?.1;
    let file = words.split(' ').find(|word| word.contains("nats.conf")).context("no file")?;
    let configuration = fs::read_to_string(file)?;
    let line = configuration.lines().find(|line| line.starts_with("http:")).context("no http")?;
    let address = line.split('"').nth(1).context("no address")?;
    let (_, body) = get(address, path)?;
    Ok(serde_json::from_str(&body)?)
}

fn get(address: &str, path: &str) -> Result<(String, String)> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    Ok((head.to_owned(), body.to_owned()))
}

/// Whether every message that was published is printed or told of as lost.
fn each_message_is_somewhere(sections: &BTreeMap<String, Value>) -> bool {
    let of = |name| counter(sections, name).unwrap_or_default();
    of("published") == of("printed by a worker") + of("gone")
}

/// What a worker has received and not printed, and what it has printed.
fn bar(sections: &BTreeMap<String, Value>, worker: &str) -> Option<(u64, u64)> {
    let mut bars = sections["detail"]["bars"].as_array()?.iter();
    let bar = bars.find(|bar| bar[0] == worker)?;
    bar[1].as_u64().zip(bar[2].as_u64())
}

#[test]
fn a_killed_worker_is_gone_and_its_loss_is_counted_exactly() -> Result<()> {
    let backend = Backend::start()?;
    let mut events = backend.events("queue-groups")?;
    let pid = backend.find("--name ann")?.context("ann does not run")?;
    // While it has something to lose.
    events.until(|sections| bar(sections, "ann").is_some_and(|(waiting, _)| waiting > 60))?;
    backend.press_well("queue-groups/ann/kill")?;
    backend.until("--name ann", |pids| !pids.contains(&pid))?;
    let told = events.told("ann was killed")?;
    let lost: u64 = told.split(' ').nth(3).context("no number")?.replace(',', "").parse()?;
    assert!(lost > 0 && told.ends_with("not printed are gone"), "{told}");

    // nats-server counts, too: what it has given to ann is what ann has printed, and what is lost.
    // ann has published nothing but echoes, which came back to it.
    let closed = monitor(&backend, "/connz?state=closed")?;
    let connections = closed["connections"].as_array().context("no connections")?;
    let ann = connections.iter().find(|it| it["name"] == "log-worker").context("no ann")?;
    let given = ann["out_msgs"].as_u64().zip(ann["in_msgs"].as_u64()).context("no counts")?;
    backend.press_well("queue-groups/log-publisher/stop")?;
    events.until(each_message_is_somewhere)?;
    let printed = |id| bar(&events.sections, id).map(|(_, printed)| printed).context("no bar");
    let by_ann = events.counter("printed by a worker")? - printed("bob")? - printed("cleo")?;
    assert_eq!(given.0 - given.1, by_ann + lost);
    assert_eq!(events.sections["lost"], lost);
    Ok(())
}

#[test]
fn a_stopped_service_loses_nothing_and_a_first_version_is_another_program() -> Result<()> {
    let backend = Backend::start()?;
    let mut events = backend.events("queue-groups")?;
    // It has seconds for what it has received.
    let is_at_work = |(waiting, printed)| waiting < 30 && printed > 0;
    events.until(|sections| bar(sections, "bob").is_some_and(is_at_work))?;
    backend.press_well("queue-groups/bob/stop")?;
    let told = events.told("bob was stopped")?;
    assert!(told.contains("it had printed all"), "{told}");
    backend.until("--name bob", <[u32]>::is_empty)?;

    backend.press_well("queue-groups/cleo/version")?;
    backend.until("first-log-worker", |pids| !pids.is_empty())?;
    backend.press_well("queue-groups/scene/bad")?;
    events.until(|sections| counter(sections, "bad, skipped") == Some(1))?;
    backend.press_well("queue-groups/bob/start")?;
    backend.until("--name bob", |pids| !pids.is_empty())
}

#[test]
fn messages_that_find_no_worker_are_counted() -> Result<()> {
    let backend = Backend::start()?;
    let mut events = backend.events("queue-groups")?;
    for worker in ["ann", "bob", "cleo"] {
        backend.press_well(&format!("queue-groups/{worker}/stop"))?;
        events.told(&format!("{worker} was stopped"))?;
    }
    let told = events.told("reached no worker")?;
    assert!(told.starts_with("no worker was subscribed"), "{told}");
    backend.press_well("queue-groups/log-publisher/stop")?;
    events.until(each_message_is_somewhere)?;
    assert_eq!(events.sections["lost"], events.counter("gone")?);
    Ok(())
}

#[test]
fn a_page_gets_all_sections_and_then_those_that_change() -> Result<()> {
    let backend = Backend::start()?;
    for scene in live::cast::experiments() {
        let mut events = backend.events(&scene)?;
        events.until(|sections| {
            ["plan", "flows", "counters", "events", "lost", "rate", "server", "detail"]
                .iter()
                .all(|name| sections.contains_key(*name))
        })?;
        assert_eq!(events.sections["plan"]["id"], scene);
        events.until(|sections| sections["rate"].as_array().is_some_and(|it| it.len() > 2))?;
    }
    assert_eq!(backend.request("GET", "/events/nothing", &[])?.0, 404);
    assert_eq!(backend.request("GET", "/lesson/rpc", &[])?, (200, "# A lesson".into()));
    Ok(())
}

#[test]
fn a_server_of_ones_own_is_looked_at_in_each_scene_and_nothing_is_started() -> Result<()> {
    let mut server = Server::start()?;
    let backend = Backend::look_at(&server.url())?;
    let programs = backend.started()?;
    assert!(programs.is_empty(), "{programs:?}");

    let spawn = |name: &str, args: &[&str]| {
        let mut command = server.command(testkit::program(name));
        testkit::Program::spawn(command.args(args))
    };
    let mut math_server = spawn("math-server", &[])?;
    math_server.expect("waiting")?;
    for (scene, program, args, seen) in [
        ("hello", "hello", &[][..], &[("messages of hello", "1")][..]),
        ("queue-groups", "log-publisher", &[], &[("published", "30")]),
        ("rpc", "math-client", &["--count", "5"], &[("replies", "5")]),
        ("jetstream", "order-publisher", &[], &[("orders in it", "10"), ("stream", "in memory")]),
        ("kv", "config-admin", &["set", "true"], &[("the switch", "on"), ("changes", "1")]),
        ("mqtt-bridge", "sensor", &["--count", "3", "--interval", "10ms"], &[("readings", "3")]),
        ("jobs", "job-submit", &["email", "--count", "4"], &[("in the queue", "4")]),
    ] {
        let mut events = backend.events(scene)?;
        events.until(|sections| sections.contains_key("counters"))?;
        let ended = spawn(program, args)?.wait()?;
        assert!(ended.success(), "{program}: {ended:?}");
        events.until(|sections| {
            let counters = &sections["counters"];
            let has = |pair| counters.as_array().is_some_and(|all| all.contains(&pair));
            seen.iter().all(|(name, value)| has(json!([name, value])))
        })?;
        let plan = &events.sections["plan"];
        assert_eq!((&plan["roles"], &plan["actions"]), (&json!([]), &json!([])), "{scene}");
        let (status, body) = backend.press(&format!("{scene}/server/kill"))?;
        assert_eq!(status, 409, "{body}");
    }
    assert!(server.is_running());
    let mut events = backend.events("hello")?;
    server.kill()?;
    events.told("nats-server is away")?;
    assert_eq!(events.sections["server"]["runs"], false);
    server.restart()?;
    events.told("nats-server runs")?;
    Ok(())
}

#[test]
fn a_server_that_was_ended_from_elsewhere_is_noticed_and_starts_again() -> Result<()> {
    let backend = Backend::start()?;
    let mut events = backend.events("rpc")?;
    let pid = backend.find("nats.conf")?.context("no nats-server")?;
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status()?.success());
    events.told("nats-server has ended")?;
    backend.press_well("rpc/server/start")?;
    events.told("nats-server runs")?;
    events.told("nats-server was away: ")?;
    Ok(())
}
