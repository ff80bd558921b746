//! An experiment can be copied, and can become the start of a service.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::common::{builds_nested, in_parallel, lock_nested, nested, root, run};

fn new(args: &[&str]) -> Command {
    let mut command = testkit::isolated(env!("CARGO_BIN_EXE_xtask"));
    command.arg("new").args(args);
    command
}

/// The cargo that runs the tests, in another workspace.
fn cargo(workspace: &Path, args: &[&str]) -> Command {
    let mut cargo = testkit::isolated(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args).arg("--offline").current_dir(workspace);
    builds_nested(&mut cargo);
    cargo
}

/// The experiments, as the README lists them.
fn experiments() -> Result<Vec<String>> {
    let ended = run(&mut new(&["nothing-like-it", "/no/such/folder"]))?;
    let line = ended.stderr.first().context("no line on stderr")?;
    let (_, list) = line.split_once("there are: ").context("no list")?;
    Ok(list.split(", ").map(str::to_owned).collect())
}

/// Builds the programs, examples and tests of `package`, and links them into a folder of their own:
/// several packages have programs of the same name. Returns its program of tests.
///
/// They are linked and not only checked, because a check would have to compile all dependencies
/// a second time. Lints do not depend on the workspace: `cargo xtask check` has applied them.
fn builds(workspace: &Path, package: &str) -> Result<PathBuf> {
    let build = ["build", "--quiet", "--message-format", "json", "--package", package];
    let targets = ["--lib", "--bins", "--examples", "--test", "*"];
    let has_library = workspace.join(package).join("src/lib.rs").exists();
    let targets = &targets[usize::from(!has_library)..];
    let ended = run(cargo(workspace, &build).args(targets))?;
    ensure!(ended.success(), "{package}: {ended:#?}");

    let folder = nested().join("programs").join(package);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let mut tests = None;
    for line in &ended.stdout {
        let message: Value = serde_json::from_str(line)?;
        let Some(program) = message["executable"].as_str().map(Path::new) else { continue };
        let linked = folder.join(program.strip_prefix(nested().join("debug"))?);
        fs::create_dir_all(linked.parent().context("no folder")?)?;
        fs::hard_link(program, &linked)?;
        if message["target"]["kind"][0] == "test" {
            tests = Some(linked);
        }
    }
    tests.context("no tests")
}

/// Plays the README of a package that was built.
fn is_true(tests: &Path) -> Result<()> {
    let ended = run(testkit::isolated(tests).arg("readme::"))?;
    let passed = ended.stdout.iter().any(|line| line.contains("ok. 1 passed"));
    ensure!(ended.success() && passed, "{}: {ended:#?}", tests.display());
    Ok(())
}

/// `cargo xtask new`.
#[test]
fn every_experiment_becomes_a_service_under_a_new_name() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut workspaces = Vec::new();
    for experiment in experiments()? {
        let name = format!("my-{experiment}");
        let made = folder.path().join(&name);
        let ended = run(&mut new(&[&experiment, made.to_str().context("not UTF-8")?]))?;
        ensure!(ended.success(), "{ended:#?}");
        let readme = fs::read_to_string(made.join("README.md"))?;
        ensure!(
            readme.starts_with(&format!("# {name}\n")) && readme.contains(&experiment),
            "{readme}"
        );
        let workspace = nested().join("new").join(&name);
        mirror(&made, &workspace)?;
        workspaces.push((workspace, name));
    }
    let lock = lock_nested()?;
    let build = |(workspace, name): (PathBuf, String)| builds(&workspace, &name);
    let tests = workspaces.into_iter().map(build).collect::<Result<Vec<_>>>()?;
    drop(lock);
    in_parallel(tests.iter(), |tests| is_true(tests))
}

/// `cp -r EXPERIMENT common testkit ELSEWHERE`, and a line that makes it a workspace.
///
/// The test above builds the same sources of every experiment, each in a workspace of its own.
/// Here cargo has to accept each copy, and one copy is built.
#[test]
fn a_copied_experiment_builds_and_is_true_to_its_readme() -> Result<()> {
    for experiment in experiments()? {
        let elsewhere = nested().join("copied").join(&experiment);
        for folder in [&experiment, "common", "testkit"] {
            mirror(&root().join(folder), &elsewhere.join(folder))?;
        }
        fs::copy(root().join("Cargo.lock"), elsewhere.join("Cargo.lock"))?;
        let workspace = "[workspace]\nresolver = \"3\"\nmembers = [\"*\"]\n";
        fs::write(elsewhere.join("Cargo.toml"), workspace)?;
        // Reads the manifests, and finds every dependency.
        let tree = ["tree", "--quiet", "--package", &experiment];
        let ended = run(&mut cargo(&elsewhere, &tree))?;
        ensure!(ended.success(), "{experiment}: {:#?}", ended.stderr);
    }
    let lock = lock_nested()?;
    let tests = builds(&nested().join("copied/hello"), "hello")?;
    drop(lock);
    is_true(&tests)
}

#[test]
fn what_cannot_become_a_service_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let there = folder.path().to_str().context("not UTF-8")?;
    let free = &format!("{there}/free");
    for (args, reason) in [
        (&["helo", free][..], "there is no experiment \"helo\"; there are: hello"),
        (&["hello", there, "--name", "x"], "exists"),
        (&["hello", free, "--name", "My Service"], "no name for a crate"),
        (&["hello", free, "--name", "common"], "no name for a crate"),
    ] {
        let ended = run(&mut new(args))?;
        ensure!(ended.code() == Some(1), "{ended:?}");
        let [line] = &ended.stderr[..] else { anyhow::bail!("{ended:?}") };
        ensure!(line.contains(reason), "{line}");
        ensure!(!Path::new(free).exists());
    }
    Ok(())
}

/// Makes `to` the same as `from`. A file that has not changed keeps its time: cargo does not
/// build it again.
fn mirror(from: &Path, to: &Path) -> Result<()> {
    let (wanted, present) = (files(from)?, files(to)?);
    for gone in present.iter().filter(|path| !wanted.contains(path)) {
        fs::remove_file(to.join(gone))?;
    }
    for path in wanted {
        let (from, to) = (from.join(&path), to.join(&path));
        let content = fs::read(from)?;
        if fs::read(&to).ok().as_ref() != Some(&content) {
            fs::create_dir_all(to.parent().unwrap_or(&to))?;
            fs::write(to, content)?;
        }
    }
    Ok(())
}

/// The files below `folder`, by their paths inside it; none if there is no such folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(inside) = folders.pop() {
        let path = folder.join(&inside);
        if !path.exists() {
            continue;
        }
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let path = inside.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    Ok(found)
}
