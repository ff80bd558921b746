//! `cargo xtask …` as a person types it.

use std::process::Command;

use anyhow::{Context, Result};
use testkit::{Cluster, Port, Ports, Server};

use crate::common::{builds_nested, lock_nested, root, run};

pub fn xtask(args: &[&str]) -> Command {
    let mut command = testkit::isolated(env!("CARGO_BIN_EXE_xtask"));
    builds_nested(command.args(args));
    if let Some(bin) = std::env::var_os("NATS_SERVER_BIN") {
        command.env("NATS_SERVER_BIN", bin);
    }
    command
}

#[test]
fn the_demo_of_everything_is_what_the_readme_shows() -> Result<()> {
    let _lock = lock_nested()?;
    let ended = run(&mut xtask(&["demo"]))?;
    let printed = ended.stdout.join("\n");
    assert!(ended.success(), "{ended:?}");
    assert!(!printed.contains('\u{1b}'), "colours that no terminal shows: {printed}");
    let wide = ended.stdout.iter().find(|line| line.chars().count() > 80);
    assert!(wide.is_none(), "more than 80 columns: {wide:?}");

    let readme = std::fs::read_to_string(root().join("README.md"))?;
    let (_, shown) = readme.split_once("$ cargo xtask demo\n").context("not in the README")?;
    let (shown, _) = shown.split_once("```").context("no end")?;
    // Times differ from run to run, also in the number of their digits.
    let timeless = |text: &str| {
        let mut plain = String::new();
        for c in text.trim().chars() {
            let c = if c.is_ascii_digit() { '0' } else { c };
            if !(c == '0' || c == ' ') || !plain.ends_with(c) {
                plain.push(c);
            }
        }
        plain + "\n"
    };
    let (shown, printed) = (timeless(shown), timeless(&printed));
    assert!(testkit::is_match(&shown, &printed), "--- README\n{shown}\n+++ printed\n{printed}");
    Ok(())
}

#[test]
fn the_demo_uses_a_running_server() -> Result<()> {
    let server = Server::start()?;
    let _lock = lock_nested()?;
    let ended = run(&mut xtask(&["demo", "hello", "--server", &server.url()]))?;
    assert!(ended.success(), "{ended:?}");
    let programs = ended.stdout.iter().filter(|line| line.contains("$ cargo run")).count();
    assert!(programs > 0, "{:?}", ended.stdout);
    assert_eq!(server.monitor("/varz")?["total_connections"], programs);
    Ok(())
}

#[test]
fn the_demo_fails_if_a_program_does() -> Result<()> {
    let port = Port::claim()?;
    let absent = format!("nats://127.0.0.1:{}", port.number());
    let _lock = lock_nested()?;
    let ended = run(&mut xtask(&["demo", "hello", "--server", &absent]))?;
    assert_eq!(ended.code(), Some(1));
    assert!(ended.stderr.join("\n").contains("hello failed"), "{ended:?}");
    assert!(ended.stdout.join("\n").contains("failed"), "{ended:?}");
    Ok(())
}

#[test]
fn an_unknown_experiment_is_named_and_the_known_ones_listed() -> Result<()> {
    let ended = run(&mut xtask(&["demo", "helo"]))?;
    assert_eq!(ended.code(), Some(1));
    let [line] = &ended.stderr[..] else { anyhow::bail!("{ended:?}") };
    assert!(line.contains("helo") && line.contains("hello"), "{line}");
    Ok(())
}

#[test]
fn a_missing_server_binary_is_one_clear_line() -> Result<()> {
    for task in [&["up"][..], &["demo", "hello"]] {
        let ended = run(xtask(task).env("NATS_SERVER_BIN", "/no/such/nats-server"))?;
        assert_eq!(ended.code(), Some(1));
        let last = ended.stderr.last().context("no line on stderr")?;
        assert!(
            last.contains("NATS_SERVER_BIN") && last.contains("/no/such/nats-server"),
            "{last}"
        );
    }
    Ok(())
}

#[test]
fn if_no_server_can_be_found_every_way_to_one_is_named() -> Result<()> {
    // PATH has a nats-server that is too old and no pip; the cache is empty.
    let folder = tempfile::tempdir()?;
    let old =
        "printf '#!/bin/sh\\necho nats-server: v2.1.0\\n' > nats-server; chmod +x nats-server";
    let made = Command::new("/bin/sh").args(["-c", old]).current_dir(folder.path()).status()?;
    assert!(made.success());
    let mut up = xtask(&["up"]);
    up.env_remove("NATS_SERVER_BIN").env("PATH", folder.path());
    let ended = run(up.env("XDG_CACHE_HOME", folder.path()))?;
    assert_eq!(ended.code(), Some(1));
    let [line] = &ended.stderr[..] else { anyhow::bail!("{ended:?}") };
    for part in ["2.1.0", "too old", "NATS_SERVER_BIN", "PATH", "pip", "docker compose up -d"] {
        assert!(line.contains(part), "{part:?} is missing in: {line}");
    }
    Ok(())
}

#[test]
fn the_servers_own_check_accepts_the_configuration() -> Result<()> {
    let text = std::fs::read_to_string(root().join("nats-server.conf"))?;
    // As docker-compose.yml changes it.
    let in_container = text.replace("\nHOST: 127.0.0.1\n", "\nHOST: 0.0.0.0\n");
    assert_ne!(text, in_container);
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("nats-server.conf");
    for config in [text, in_container] {
        std::fs::write(&path, config)?;
        let output =
            Command::new(testkit::nats_server()?).arg("-t").arg("-c").arg(&path).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("is valid"), "{said}");
    }
    Ok(())
}

#[test]
fn the_container_runs_the_pinned_version() -> Result<()> {
    let compose = std::fs::read_to_string(root().join("docker-compose.yml"))?;
    let image = format!("image: nats:{}-alpine", testkit::VERSION);
    assert!(compose.contains(&image), "docker-compose.yml does not say `{image}`");
    Ok(())
}

#[test]
fn the_containers_of_the_cluster_have_the_ports_of_up_cluster() -> Result<()> {
    let compose = std::fs::read_to_string(root().join("docker-compose.yml"))?;
    for Ports { nats, mqtt, monitoring } in Cluster::PORTS {
        for ports in [(nats, 4222), (mqtt, 1883), (monitoring, 8222)] {
            let published = format!("\"127.0.0.1:{}:{}\"", ports.0, ports.1);
            assert!(compose.contains(&published), "docker-compose.yml does not say {published}");
        }
    }
    Ok(())
}
