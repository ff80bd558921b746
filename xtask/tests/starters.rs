//! An experiment becomes something of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

mod common;

use common::{nested, root, run};

fn new(args: &[&str]) -> Command {
    let mut command = testkit::isolated(env!("CARGO_BIN_EXE_xtask"));
    command.arg("new").args(args);
    command
}

/// The cargo that runs the tests, building elsewhere, and nothing that only a debugger needs.
fn cargo() -> Command {
    let mut cargo = testkit::isolated(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .env("CARGO_TARGET_DIR", nested())
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    cargo
}

/// The experiments, as the README lists them.
fn experiments() -> Result<Vec<String>> {
    let ended = run(&mut new(&["nothing-like-it", "/no/such/folder"]))?;
    let line = ended.stderr.first().context("no word")?;
    let (_, list) = line.split_once("there are: ").context("no list")?;
    Ok(list.split(", ").map(str::to_owned).collect())
}

/// Checks every target of `package` with its lints, builds its programs, and plays its README.
fn holds(workspace: &Path, package: &str) -> Result<()> {
    let mut clippy = cargo();
    clippy.args([
        "clippy",
        "--offline",
        "--quiet",
        "--package",
        package,
        "--all-targets",
    ]);
    let ended = run(clippy
        .args(["--", "--deny", "warnings"])
        .current_dir(workspace))?;
    ensure!(ended.success(), "{package}: {ended:#?}");
    let mut test = cargo();
    test.args([
        "test",
        "--offline",
        "--quiet",
        "--package",
        package,
        "--test",
        "readme",
    ]);
    let ended = run(test.current_dir(workspace))?;
    let passed = ended
        .stdout
        .iter()
        .any(|line| line.contains("ok. 1 passed"));
    ensure!(ended.success() && passed, "{package}: {ended:#?}");
    Ok(())
}

/// `cargo xtask new`.
#[test]
fn every_experiment_becomes_a_service_under_a_new_name() -> Result<()> {
    for experiment in experiments()? {
        let name = format!("my-{experiment}");
        let destination = nested().join("new").join(&name);
        remove(&destination)?;
        let ended = run(&mut new(&[
            &experiment,
            destination.to_str().context("not UTF-8")?,
        ]))?;
        ensure!(ended.success(), "{ended:#?}");
        holds(&destination, &name)?;
        let readme = fs::read_to_string(destination.join("README.md"))?;
        ensure!(
            readme.starts_with(&format!("# {name}\n")) && readme.contains(&experiment),
            "{readme}"
        );
    }
    Ok(())
}

/// `cp -r EXPERIMENT common testkit ELSEWHERE`, and a line that makes it a workspace.
#[test]
fn a_copied_experiment_builds_and_is_true_to_its_readme() -> Result<()> {
    for experiment in experiments()? {
        let elsewhere = nested().join("copied").join(&experiment);
        remove(&elsewhere)?;
        for folder in [&experiment, "common", "testkit"] {
            copy(&root().join(folder), &elsewhere.join(folder))?;
        }
        fs::copy(root().join("Cargo.lock"), elsewhere.join("Cargo.lock"))?;
        let workspace = "[workspace]\nresolver = \"3\"\nmembers = [\"*\"]\n";
        fs::write(elsewhere.join("Cargo.toml"), workspace)?;
        holds(&elsewhere, &experiment)?;
    }
    Ok(())
}

#[test]
fn what_cannot_become_a_service_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let there = folder.path().to_str().context("not UTF-8")?;
    let free = &format!("{there}/free");
    for (args, reason) in [
        (
            &["helo", free][..],
            "there is no experiment \"helo\"; there are: hello",
        ),
        (&["hello", there, "--name", "x"], "exists"),
        (
            &["hello", free, "--name", "My Service"],
            "no name for a crate",
        ),
        (&["hello", free, "--name", "common"], "no name for a crate"),
    ] {
        let ended = run(&mut new(args))?;
        ensure!(ended.code() == Some(1), "{ended:?}");
        let [line] = &ended.stderr[..] else {
            anyhow::bail!("{ended:?}")
        };
        ensure!(line.contains(reason), "{line}");
        ensure!(!Path::new(free).exists());
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}

/// As `cp -rp` does: what keeps its time is not built again.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to)?;
            fs::File::options()
                .write(true)
                .open(&to)?
                .set_modified(entry.metadata()?.modified()?)?;
        }
    }
    Ok(())
}
