//! `cargo xtask prove`: breaks a program, in any language, and says what was lost.

use std::ffi::OsString;
use std::io::{Write, stderr};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anstream::{print, println};
use anyhow::{Context, Result, ensure};
use clap::Args;
use prove::{Candidate, Check, Plan, Role, Verdict};
use serde_json::json;

use crate::verdicts::{BAD, Detail, GOOD, Screen, WIDTH};
use crate::workspace::{cargo, root};

/// Breaks a program, in any language, and says what was lost
#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub struct Call {
    /// What the program does: the name of one of ours, `math-server` for instance
    role: String,
    /// Makes this check only
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Lists the checks
    #[arg(long)]
    list: bool,
    /// Prints what a program in this role has to do
    #[arg(long)]
    contract: bool,
    /// Prints one JSON object in place of lines
    #[arg(long)]
    json: bool,
    /// Decides what the checks leave to chance: which copy is killed, and when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Prints what the program printed in checks that failed
    #[arg(long)]
    verbose: bool,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Exit code of a call that makes no sense.
const WRONG_CALL: u8 = 2;

/// Runs the checks. The exit code is 0 if all hold, 1 if not, 2 for a wrong call.
pub fn run(call: &Call) -> Result<ExitCode> {
    let wrong = |error: anyhow::Error| {
        let _ = writeln!(stderr(), "error: {error:#}");
        Ok(ExitCode::from(WRONG_CALL))
    };
    let (role, checks) = match chosen(call) {
        Ok(chosen) => chosen,
        Err(error) => return wrong(error),
    };
    if call.list {
        list(role);
        return Ok(ExitCode::SUCCESS);
    }
    if call.contract {
        print!("{}", role.contract);
        return Ok(ExitCode::SUCCESS);
    }
    if let Err(error) = Candidate::new(&call.command).and_then(|it| it.found()) {
        let example = format!("cargo xtask prove {} -- python3 server.py", role.name);
        return wrong(error.context(format!("name the program to run, as in `{example}`")));
    }
    let candidate = Candidate::new(build_first(&call.command)?)?;

    let folder = root().join(format!("target/prove/{}-{}", role.name, std::process::id()));
    let plan = Plan { checks, seed: call.seed, folder };
    if !call.json {
        println!("{}", introduction(call, &plan));
    }
    let begun = Instant::now();
    let detail = match call {
        Call { json: true, .. } => Detail::Nothing,
        Call { verbose: true, .. } => Detail::Output,
        _ => Detail::Cause,
    };
    let verdicts = Screen::new(&plan.checks, detail).run(&plan, &candidate)?;

    let good = verdicts.iter().filter(|verdict| verdict.holds()).count();
    if call.json {
        println!("{}", as_json(role, &verdicts));
    } else {
        let (style, all) = (if good == verdicts.len() { GOOD } else { BAD }, verdicts.len());
        let took = begun.elapsed().as_secs_f64();
        println!("\n{style}{good} of {all} hold{style:#}, in {took:.1} s.");
        println!("What the program printed: {}", plan.folder.display());
    }
    Ok(if good == verdicts.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is about to be done.
fn introduction(call: &Call, plan: &Plan) -> String {
    let words = call.command.iter().map(|word| word.to_string_lossy());
    let checks = match plan.checks.len() {
        1 => "1 check".to_owned(),
        count => format!("{count} checks"),
    };
    let text = format!(
        "{}: {}\n{checks} with seed {}, against nats-server {}\n",
        call.role,
        words.collect::<Vec<_>>().join(" "),
        call.seed,
        testkit::VERSION
    );
    textwrap::fill(&text, WIDTH)
}

/// The role and the checks that the call names.
fn chosen(call: &Call) -> Result<(&'static Role, Vec<&'static Check>)> {
    let names = prove::roles().iter().map(|role| role.name).collect::<Vec<_>>().join(", ");
    let role = prove::role(&call.role)
        .with_context(|| format!("there is no role {:?}; there are: {names}", call.role))?;
    let mut checks: Vec<_> = role.checks.iter().collect();
    if let Some(only) = &call.only {
        checks.retain(|check| check.name == only);
        ensure!(
            !checks.is_empty(),
            "{} has no check {only:?}; `cargo xtask prove {} --list` shows them",
            role.name,
            role.name
        );
    }
    Ok((role, checks))
}

fn list(role: &Role) {
    let widest = role.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for check in role.checks {
        let indent = " ".repeat(widest + 2);
        let options = textwrap::Options::new(WIDTH).initial_indent("").subsequent_indent(&indent);
        let line = format!("{:<widest$}  {}", check.name, check.claim);
        println!("{}", textwrap::fill(&line, options));
    }
}

/// Builds what `cargo run` would build: a build takes longer than a program has to start. Returns
/// the command to run, in which cargo is quiet: what it says is not the program's.
fn build_first(command: &[OsString]) -> Result<Vec<OsString>> {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let ["cargo", "run", flags @ ..] = &words.iter().map(|word| &**word).collect::<Vec<_>>()[..]
    else {
        return Ok(command.to_vec());
    };
    let mut build = Command::new(cargo().get_program());
    build.arg("build").args(flags.iter().take_while(|flag| **flag != "--"));
    ensure!(build.status().context("cannot run cargo")?.success(), "the build failed");
    let is_quiet = flags.iter().any(|flag| ["-q", "--quiet"].contains(flag));
    let quiet = if is_quiet { None } else { Some("--quiet") };
    let words = ["cargo", "run"].into_iter().chain(quiet).chain(flags.iter().copied());
    Ok(words.map(OsString::from).collect())
}

fn as_json(role: &Role, verdicts: &[Verdict]) -> serde_json::Value {
    let checks = verdicts.iter().map(|verdict| {
        let why = match &verdict.result {
            Err(flaw) if flaw.why().is_empty() => flaw.figure.clone(),
            Err(flaw) => flaw.why(),
            Ok(_) => String::new(),
        };
        json!({
            "name": verdict.check.name,
            "holds": verdict.holds(),
            "figure": verdict.figure(),
            "why": why,
        })
    });
    json!({ "role": role.name, "checks": checks.collect::<Vec<_>>() })
}
