//! `cargo xtask prove`: its calls, its exit codes, and what it leaves behind.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::{Ended, Program};

fn prove(args: &[&str]) -> Result<Ended> {
    let mut command: Command = testkit::isolated(env!("CARGO_BIN_EXE_xtask"));
    Program::spawn(command.arg("prove").args(args))?.wait()
}

#[test]
fn a_wrong_call_says_what_is_wrong_and_exits_with_2() -> Result<()> {
    for (args, reason) in [
        (
            &["math-sever", "true"][..],
            "there is no role \"math-sever\"; there are: hello, log-publisher",
        ),
        (&["math-server", "--only", "x", "true"], "math-server has no check \"x\""),
        (&["math-server"], "name the program to run"),
        (&["math-server", "--", "no-such-program"], "there is no program no-such-program"),
    ] {
        let ended = prove(args)?;
        ensure!(ended.code() == Some(2), "{args:?}: {ended:?}");
        ensure!(ended.stderr.len() == 1 && ended.stderr[0].contains(reason), "{ended:?}");
    }
    assert_eq!(prove(&[])?.code(), Some(2));
    Ok(())
}

#[test]
fn checks_and_contracts_are_shown_on_one_screen() -> Result<()> {
    for role in prove::roles() {
        let listed = prove(&[role.name, "--list"])?;
        ensure!(listed.success());
        for check in role.checks {
            ensure!(listed.stdout.iter().any(|line| line.starts_with(check.name)), "{check:?}");
        }
        let contract = prove(&[role.name, "--contract"])?;
        ensure!(contract.success());
        ensure!(contract.stdout.len() <= 40, "{}: {} lines", role.name, contract.stdout.len());
        for line in listed.stdout.iter().chain(&contract.stdout) {
            ensure!(line.chars().count() <= 80, "{line}");
        }
    }
    Ok(())
}

#[test]
fn a_program_that_does_not_start_fails_every_check_at_once() -> Result<()> {
    let ended = prove(&["math-server", "--json", "--", "true"])?;
    ensure!(ended.code() == Some(1), "{ended:?}");
    let [line] = &ended.stdout[..] else { anyhow::bail!("{ended:?}") };
    let report: Value = serde_json::from_str(line)?;
    assert_eq!(report["role"], "math-server");
    let checks = report["checks"].as_array().context("no checks")?;
    let role = prove::role("math-server").context("no role")?;
    assert_eq!(checks.len(), role.checks.len());
    for (check, expected) in checks.iter().zip(role.checks) {
        assert_eq!(check["name"], expected.name);
        assert_eq!(check["holds"], false);
    }
    assert_eq!(checks[0]["figure"], "it ended before it subscribed to math.sum");
    let why = checks[0]["why"].as_str().context("no reason")?;
    ensure!(why.contains("exited with code 0"), "{why}");
    Ok(())
}

#[test]
fn a_failed_check_explains_itself_in_80_columns() -> Result<()> {
    let ended = prove(&[
        "math-server",
        "--only",
        "starts",
        "--verbose",
        "--",
        "/bin/sh",
        "-c",
        "echo nothing here; exit 1",
    ])?;
    ensure!(ended.code() == Some(1), "{ended:?}");
    let text = ended.stdout.join("\n");
    for part in ["✘ starts", "claim ", "saw ", "lesson  rpc/README.md:", "│ nothing here"] {
        ensure!(text.contains(part), "no {part:?} in\n{text}");
    }
    let own = ended.stdout.iter().filter(|line| !line.contains("target/prove"));
    for line in own {
        ensure!(line.chars().count() <= 80, "{line}");
    }
    Ok(())
}

#[test]
fn the_session_on_the_page_is_what_is_printed() -> Result<()> {
    let page = fs::read_to_string("../PROVE.md")?;
    let (_, session) = page.split_once("```console\n$ cargo xtask prove ").context("no session")?;
    let (session, _) = session.split_once("```").context("no end")?;
    let (call, expected) = session.split_once('\n').context("no output")?;
    let (flags, example) =
        call.split_once("cargo run -p rpc --example ").context("no example in the call")?;
    let programs = Path::new(env!("CARGO_BIN_EXE_xtask")).parent().context("no folder")?;
    let example = programs.join("examples").join(example).display().to_string();
    let args: Vec<&str> = flags.split_whitespace().chain([example.as_str()]).collect();
    let ended = prove(&args)?;
    let printed = ended.stdout.iter().map(|line| format!("{line}\n")).collect::<String>();
    ensure!(testkit::is_match(expected, &printed), "{printed}\n{:?}", ended.stderr);
    Ok(())
}

#[test]
#[cfg(target_os = "linux")]
fn a_process_without_its_environment_is_killed_too() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("pid");
    let script = format!(
        "(env -i setsid sh -c 'echo $$ > {0}; exec sleep 1000' &); while [ ! -s {0} ]; do sleep 0.01; done",
        file.display()
    );
    let ended = prove(&["math-server", "--only", "starts", "--", "/bin/sh", "-c", &script])?;
    ensure!(ended.code() == Some(1), "{ended:?}");
    let pid = fs::read_to_string(file)?;
    ensure!(!Path::new("/proc").join(pid.trim()).exists(), "{pid} runs");
    Ok(())
}

#[test]
fn every_lesson_of_a_check_exists() -> Result<()> {
    for check in prove::roles().iter().flat_map(|role| role.checks) {
        let (file, anchor) = check.lesson.split_once('#').context("no heading")?;
        let text = fs::read_to_string(Path::new("..").join(file))?;
        let is_there = text.lines().any(|line| {
            line.starts_with('#')
                && line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-") == anchor
        });
        ensure!(is_there, "{}", check.lesson);
    }
    Ok(())
}
