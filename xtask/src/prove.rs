//! `cargo xtask prove`: breaks anybody's program, and says what was lost.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{IsTerminal, Write as _, stderr};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anstream::{print, println};
use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result, ensure};
use clap::Args;
use prove::{Candidate, Check, Event, Flaw, Orphans, Plan, Role, Verdict};
use serde_json::json;
use textwrap::WordSplitter;

use crate::workspace::{cargo, line_of, root};

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const FAINT: Style = Style::new().dimmed();

/// How wide a line may be.
const WIDTH: usize = 80;

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
    let candidate = match Candidate::new(&call.command).and_then(|it| it.found().map(|()| it)) {
        Ok(candidate) => candidate,
        Err(error) => {
            let example = format!("cargo xtask prove {} -- python3 server.py", role.name);
            return wrong(error.context(format!("name the program to run, as in `{example}`")));
        }
    };
    build_first(&call.command)?;

    let folder = root().join(format!("target/prove/{}-{}", role.name, std::process::id()));
    let plan = Plan { checks, seed: call.seed, folder };
    let orphans = Orphans::adopt();
    let begun = Instant::now();
    let mut screen = Screen::new(call, &plan);
    let verdicts = prove::run(&plan, &candidate, |event| screen.take(&event))?;
    Screen::clear();
    drop(orphans);

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

/// Builds what `cargo run` would build: a build takes longer than a program has to start.
fn build_first(command: &[OsString]) -> Result<()> {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let ["cargo", "run", flags @ ..] = &words.iter().map(|word| &**word).collect::<Vec<_>>()[..]
    else {
        return Ok(());
    };
    let mut build = Command::new(cargo().get_program());
    build.arg("build").args(flags.iter().take_while(|flag| **flag != "--"));
    ensure!(build.status().context("cannot run cargo")?.success(), "the build failed");
    Ok(())
}

fn as_json(role: &Role, verdicts: &[Verdict]) -> serde_json::Value {
    let checks = verdicts.iter().map(|verdict| {
        let why = verdict.result.as_ref().err().map(Flaw::why).unwrap_or_default();
        json!({
            "name": verdict.check.name,
            "holds": verdict.holds(),
            "figure": verdict.figure(),
            "why": why,
        })
    });
    json!({ "role": role.name, "checks": checks.collect::<Vec<_>>() })
}

/// Shows verdicts in the plan's order, and what runs meanwhile.
struct Screen {
    order: VecDeque<&'static str>,
    /// Verdicts that came before their turn.
    early: Vec<(&'static str, String)>,
    running: Vec<&'static str>,
    /// How long the names are.
    names: usize,
    verbose: bool,
    json: bool,
}

impl Screen {
    fn new(call: &Call, plan: &Plan) -> Self {
        let order = plan.checks.iter().map(|check| check.name).collect();
        if !call.json {
            let words = call.command.iter().map(|word| word.to_string_lossy());
            let command = words.collect::<Vec<_>>().join(" ");
            let line = format!(
                "{}: {command}\n{} with seed {}, against nats-server {}\n",
                call.role,
                match plan.checks.len() {
                    1 => "1 check".to_owned(),
                    count => format!("{count} checks"),
                },
                call.seed,
                testkit::VERSION
            );
            println!("{}", textwrap::fill(&line, WIDTH));
        }
        let names = plan.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        let (verbose, json) = (call.verbose, call.json);
        Self { order, early: vec![], running: vec![], names, verbose, json }
    }

    fn take(&mut self, event: &Event<'_>) {
        Self::clear();
        match event {
            Event::Begins(check) => self.running.push(check.name),
            Event::Ends(verdict) => {
                self.running.retain(|name| *name != verdict.check.name);
                self.early.push((verdict.check.name, paragraph(verdict, self.names, self.verbose)));
            }
        }
        while let Some(turn) = self.order.front()
            && let Some(at) = self.early.iter().position(|(name, _)| name == turn)
        {
            let (_, text) = self.early.remove(at);
            if !self.json {
                print!("{text}");
            }
            self.order.pop_front();
        }
        if !self.running.is_empty() && stderr().is_terminal() {
            let line = format!("… {}", self.running.join(", "));
            let line: String = line.chars().take(WIDTH - 1).collect();
            let _ = write!(stderr(), "{line}\r");
        }
    }

    fn clear() {
        if stderr().is_terminal() {
            let _ = write!(stderr(), "{:1$}\r", "", WIDTH - 1);
        }
    }
}

/// What is shown of a verdict.
fn paragraph(verdict: &Verdict, names: usize, verbose: bool) -> String {
    let check = verdict.check;
    let line = |style: Style, mark: char, figure: &str| {
        wrapped(&format!("{style}{mark}{style:#} {:<names$}  ", check.name), figure, names + 4)
    };
    let Err(flaw) = &verdict.result else {
        return line(GOOD, '✔', verdict.figure());
    };
    let mut text = line(BAD, '✘', &flaw.figure);
    let lesson = line_of(check.lesson).unwrap_or_else(|_| check.lesson.to_owned());
    if flaw.why().is_empty() {
        return text;
    }
    for (name, part) in [
        ("claim", check.claim),
        ("did", &flaw.did),
        ("saw", &flaw.saw),
        ("likely", &flaw.likely),
        ("lesson", &lesson),
    ] {
        if !part.is_empty() {
            text += &wrapped(&format!("    {FAINT}{name:<7}{FAINT:#} "), part, 12);
        }
    }
    if verbose {
        text += &printed(&verdict.folder).unwrap_or_default();
    }
    text
}

fn wrapped(begin: &str, text: &str, indent: usize) -> String {
    let indent = " ".repeat(indent);
    let options = textwrap::Options::new(WIDTH)
        .word_splitter(WordSplitter::NoHyphenation)
        .initial_indent(begin)
        .subsequent_indent(&indent);
    textwrap::fill(text, options) + "\n"
}

/// What the copies of a program have printed.
fn printed(folder: &Path) -> Result<String> {
    /// Of each copy, in lines.
    const SHOWN: usize = 40;
    let mut files: Vec<_> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    files.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    let mut text = String::new();
    for path in files {
        let kept = fs::read_to_string(&path)?;
        let lines: Vec<&str> = kept.lines().collect();
        writeln!(text, "    {}", path.display())?;
        for line in lines.iter().take(SHOWN) {
            let line: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
            writeln!(text, "    │ {line}")?;
        }
        if lines.len() > SHOWN {
            writeln!(text, "    │ … {} lines more", lines.len() - SHOWN)?;
        }
    }
    Ok(text)
}
