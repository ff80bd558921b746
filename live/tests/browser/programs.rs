//! The buttons that each program has, and those of nats-server, in each scene.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use live::cast::{Action, Deed, Life, PLANS, ROLES, Role, Run};
use serde_json::json;

use crate::driver::plain;
use crate::page::{Page, command, gone};
use crate::process::PATIENCE;

/// Through a slow line a program connects no faster: it waits for a byte each way at least.
const SLOW: Duration = Duration::from_millis(600);

/// Presses every button of a scene's boxes, and looks at the processes.
fn every_box_of(scene: &str) -> Result<()> {
    Page::open(scene)?.silently(|page| {
        for role in ROLES.iter().filter(|role| role.scene == scene) {
            match role.life {
                Life::Tool => tool(page, role)?,
                Life::Spare => {
                    page.press("scene", "more")?;
                    program(page, role)?;
                }
                Life::Lasting | Life::Again(_) => program(page, role)?,
            }
        }
        server(page)
    })
}

fn program(page: &Page, role: &Role) -> Result<()> {
    let id = role.id;
    let pid = page.process(id, None)?;
    page.press(id, "kill")?;
    gone(pid)?;
    toggle(page, id, "slow", true)?;
    let begun = Instant::now();
    page.press(id, "start")?;
    page.is_connected(id, pid)?;
    ensure!(begun.elapsed() >= SLOW, "{id} was not slow: {:?}", begun.elapsed());
    toggle(page, id, "slow", false)?;

    let pid = page.process(id, None)?;
    page.press(id, "stop")?;
    gone(pid)?;
    toggle(page, id, "cut", true)?;
    page.press(id, "start")?;
    page.cannot_connect(id)?;
    toggle(page, id, "cut", false)?;
    // It has ended. One that runs again and again is started by itself.
    if !matches!(role.life, Life::Again(_)) {
        page.press(id, "start")?;
    }
    page.is_connected(id, pid)?;

    // A program that ends by itself lives long enough to be looked at if its line is slow.
    toggle(page, id, "slow", true)?;
    if let Some(first) = &role.first {
        for run in [first, &role.service] {
            version(page, id, run)?;
        }
    }
    toggle(page, id, "slow", false)
}

/// Cuts or slows a line, or mends it.
fn toggle(page: &Page, id: &str, fault: &str, is_on: bool) -> Result<()> {
    page.press(id, fault)?;
    let wire = format!("return wires['{id}'].getAttribute('class').includes('{fault}')");
    page.until(fault, &wire, |is| *is == json!(is_on)).map(|_| ())
}

/// Presses the button for the other version, and waits for a process of it.
fn version(page: &Page, id: &str, run: &Run) -> Result<()> {
    let mut pid = page.process(id, None)?;
    page.press(id, "version")?;
    gone(pid)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        pid = page.process(id, Some(pid))?;
        let command = command(pid)?;
        let program = command.split(' ').next().unwrap_or_default();
        if program.ends_with(&format!("/{}", run.program)) {
            return Ok(());
        }
        // One that ends by itself may have done so.
        let is_over = Instant::now() > deadline;
        ensure!(command.is_empty() && !is_over, "{id}: {command:?}, not {}", run.program);
    }
}

/// A tool is run by buttons of the scene. Its own are there if it has a first version.
fn tool(page: &Page, role: &Role) -> Result<()> {
    let id = role.id;
    let buttons = format!(
        "return ['start', 'stop', 'kill', 'cut', 'slow', 'version'].filter((name) => \
         document.getElementById('{id}-' + name)).join()",
    );
    let buttons = page.script(&buttons)?;
    let all = if role.first.is_some() { "stop,kill,cut,slow,version" } else { "" };
    ensure!(buttons == json!(all), "{id}: {buttons}");
    if role.first.is_none() {
        return Ok(());
    }
    let runs_it = |action: &&Action| matches!(action.deed, Deed::Tool { id: of, .. } if of == id);
    let action = PLANS.iter().flat_map(|plan| plan.actions).find(runs_it).context("no button")?;
    toggle(page, id, "cut", true)?;
    page.press("scene", action.id)?;
    page.printed(id, "cannot connect")?;
    let state = format!("return sections['program:{id}'].state");
    // It waits for nats-server's first line.
    for (button, how) in [("stop", "was stopped (SIGTERM)"), ("kill", "was killed (kill -9)")] {
        page.press("scene", action.id)?;
        let pid = page.process(id, None)?;
        page.press(id, button)?;
        gone(pid)?;
        page.until(how, &state, |state| plain(state).starts_with(how))?;
    }
    toggle(page, id, "cut", false)?;
    toggle(page, id, "slow", true)?;
    let begun = Instant::now();
    page.press("scene", action.id)?;
    page.until("it has ended well", &state, |state| *state == json!("has ended, exit code 0"))?;
    ensure!(begun.elapsed() >= SLOW, "{id} was not slow: {:?}", begun.elapsed());
    toggle(page, id, "slow", false)
}

fn server(page: &Page) -> Result<()> {
    let runs = "return sections.server.runs";
    for (button, state) in [("kill", "was killed (kill -9)"), ("stop", "was stopped (SIGTERM)")] {
        let pid = page.backend.find("nats.conf")?.context("no nats-server")?;
        page.press("server", button)?;
        gone(pid)?;
        page.told(&format!("nats-server {state}"))?;
        page.press("server", "start")?;
        page.until("nats-server runs", runs, |runs| *runs == json!(true))?;
        ensure!(page.backend.find("nats.conf")?.is_some_and(|new| new != pid));
    }
    Ok(())
}

/// A test for each scene.
macro_rules! scenes {
    ($($name:ident: $scene:literal,)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            every_box_of($scene)
        })*
    };
}

scenes! {
    hello: "hello",
    queue_groups: "queue-groups",
    rpc: "rpc",
    jetstream: "jetstream",
    kv: "kv",
    mqtt_bridge: "mqtt-bridge",
    jobs: "jobs",
}
