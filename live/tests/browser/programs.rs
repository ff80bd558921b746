//! The buttons that each program has, and those of nats-server.

use anyhow::{Result, ensure};
use live::cast::{Life, ROLES};
use serde_json::json;

use crate::page::{Page, command, gone};

/// Presses every button of every program of a scene, and looks at the processes.
fn every_program_of(scene: &str) -> Result<()> {
    let page = Page::open(scene)?;
    let roles = ROLES.iter().filter(|role| role.scene == scene);
    for role in roles.filter(|role| !matches!(role.life, Life::Tool | Life::Spare)) {
        let id = role.id;
        let pid = page.process(id, None)?;
        page.press(id, "kill")?;
        gone(pid)?;
        page.press(id, "start")?;
        let pid = page.process(id, Some(pid))?;
        page.press(id, "stop")?;
        gone(pid)?;
        page.press(id, "start")?;
        let mut pid = page.process(id, Some(pid))?;
        if let Some(first) = &role.first {
            for run in [first, &role.service] {
                page.press(id, "version")?;
                gone(pid)?;
                // One that runs again and again may be between two runs of the same kind.
                loop {
                    pid = page.process(id, Some(pid))?;
                    let command = command(pid)?;
                    let program = command.split(' ').next().unwrap_or_default();
                    if program.ends_with(&format!("/{}", run.program)) {
                        break;
                    }
                    ensure!(command.is_empty(), "{id}: {command}, not {}", run.program);
                }
            }
        }
        for fault in ["cut", "slow"] {
            let wire = format!("return wires['{id}'].getAttribute('class').includes('{fault}')");
            page.press(id, fault)?;
            page.until(fault, &wire, |is| *is == json!(true))?;
            page.press(id, fault)?;
            page.until(fault, &wire, |is| *is == json!(false))?;
        }
    }
    page.browser.is_silent()
}

#[test]
fn hello() -> Result<()> {
    every_program_of("hello")
}

#[test]
fn queue_groups() -> Result<()> {
    every_program_of("queue-groups")
}

#[test]
fn rpc() -> Result<()> {
    every_program_of("rpc")
}

#[test]
fn jetstream() -> Result<()> {
    every_program_of("jetstream")
}

#[test]
fn kv() -> Result<()> {
    every_program_of("kv")
}

#[test]
fn mqtt_bridge() -> Result<()> {
    every_program_of("mqtt-bridge")
}

#[test]
fn jobs() -> Result<()> {
    every_program_of("jobs")
}

#[test]
fn nats_server_is_killed_stopped_and_started() -> Result<()> {
    let page = Page::open("rpc")?;
    for (button, state) in [("kill", "was killed (kill -9)"), ("stop", "was stopped (SIGTERM)")] {
        let pid = page.backend.find("nats.conf")?.unwrap_or_default();
        page.press("server", button)?;
        gone(pid)?;
        page.told(&format!("nats-server {state}"))?;
        page.press("server", "start")?;
        page.told("nats-server runs")?;
        ensure!(page.backend.find("nats.conf")?.is_some_and(|new| new != pid));
        page.told("lost")?; // "nats-server was away: … of … requests lost"
    }
    page.browser.is_silent()
}
