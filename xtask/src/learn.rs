//! `cargo xtask learn`: programs with one flaw each.

mod folder;

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use anstream::{print, println};
use anstyle::Style;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use course::{EXERCISES, Exercise};
use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use notify::{RecursiveMode, Watcher};
use prove::{Candidate, Plan};
use similar::{ChangeTag, TextDiff};

use crate::verdicts::{BAD, Detail, FAINT, GOOD, Screen, WIDTH, wrapped};
use crate::workspace::root;
use folder::Folder;

const TITLE: Style = Style::new().bold();

/// Programs with one flaw each: find it, mend it, have it checked
#[derive(Args)]
pub struct Call {
    #[command(subcommand)]
    action: Option<Action>,
    /// The folder in which you edit the programs [default: exercises]
    #[arg(long, global = true, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Action {
    /// Lists the exercises, and which of them are solved
    List,
    /// Builds an exercise, and checks it: exit code 0 if it is solved
    Check(Name),
    /// Shows one more hint; there are three
    Hint(Name),
    /// Prints the program without the flaw
    Solution(Name),
    /// Puts the program back as it was
    Reset(Name),
}

#[derive(Args)]
struct Name {
    /// Its name or number [default: the first one that is not solved]
    name: Option<String>,
}

impl Name {
    fn exercise(&self, folder: &Folder) -> Result<&'static Exercise> {
        match &self.name {
            Some(name) => course::find(name).with_context(|| {
                format!("there is no exercise {name:?}; `cargo xtask learn list` shows them")
            }),
            None => folder.next().context("all exercises are solved; name one"),
        }
    }
}

/// Runs the course, or does what the call says.
pub fn run(call: &Call) -> Result<ExitCode> {
    let path = call.folder.clone().unwrap_or_else(|| root().join("exercises"));
    let mut folder = Folder::open(std::path::absolute(path)?)?;
    match &call.action {
        None => course(&mut folder)?,
        Some(Action::List) => print!("{}", list(&folder)),
        Some(Action::Check(name)) => {
            let exercise = name.exercise(&folder)?;
            if !check(&mut folder, exercise)? {
                return Ok(ExitCode::FAILURE);
            }
            print!("{}", praise(exercise));
        }
        Some(Action::Hint(name)) => {
            let exercise = name.exercise(&folder)?;
            folder.hinted(exercise)?;
            print!("{}", hints(&folder, exercise));
        }
        Some(Action::Solution(name)) => print!("{}", name.exercise(&folder)?.solution),
        Some(Action::Reset(name)) => {
            let exercise = name.exercise(&folder)?;
            folder.reset(exercise)?;
            println!("{} is as it was.", folder.shown(exercise));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds it and makes its checks. Returns whether it is solved.
fn check(folder: &mut Folder, exercise: &Exercise) -> Result<bool> {
    let Some(program) = folder.build(exercise)? else {
        println!("\n{BAD}✘{BAD:#} {} does not compile yet.", exercise.name);
        return Ok(false);
    };
    let role = prove::role(exercise.role).with_context(|| format!("no role {}", exercise.role))?;
    let checks = role.checks.iter().filter(|check| exercise.checks.contains(&check.name));
    let checks: Vec<_> = checks.collect();
    let kept = root().join("target/learn").join(exercise.name);
    let plan = Plan { checks, seed: 1, folder: kept };
    // The likely cause is for the hints to tell.
    let screen = Screen::new(&plan.checks, Detail::Seen);
    let verdicts = screen.run(&plan, &Candidate::new([program])?)?;
    let is_solved = verdicts.iter().all(prove::Verdict::holds);
    if is_solved {
        folder.solved(exercise)?;
    }
    Ok(is_solved)
}

/// What introduces an exercise.
fn introduction(folder: &Folder, exercise: &Exercise) -> String {
    let (number, title) = exercise.title().split_once(' ').unwrap_or_default();
    let number = number.trim_start_matches('0');
    let (count, story) = (EXERCISES.len(), exercise.story());
    let (file, role) = (folder.shown(exercise), exercise.role);
    format!(
        "{TITLE}{number} of {count}  {title}{TITLE:#}\n\n{story}\n\
         {FAINT}edit{FAINT:#}  {file}\n\
         {FAINT}role{FAINT:#}  {role}: cargo xtask prove {role} --contract\n\n"
    )
}

/// What is said of a solved one.
fn praise(exercise: &Exercise) -> String {
    let line = |begin: &str, text: &str| wrapped(&format!("{FAINT}{begin:<11}{FAINT:#}"), text, 11);
    format!(
        "\n{GOOD}✔{GOOD:#} {} is solved.\n\n{}{}",
        exercise.name,
        line("learnt", exercise.learnt),
        line("production", exercise.production)
    )
}

/// The hints that were asked for so far.
fn hints(folder: &Folder, exercise: &Exercise) -> String {
    let mut text = String::new();
    for (number, hint) in exercise.hints.iter().take(folder.hints(exercise)).enumerate() {
        let begin = format!("{FAINT}hint {}{FAINT:#}  ", number + 1);
        for (part, paragraph) in hint.split("\n\n").enumerate() {
            let begin = if part == 0 { &begin } else { "        " };
            if paragraph.starts_with(' ') {
                let code: Vec<_> =
                    paragraph.lines().map(|line| format!("        {line}")).collect();
                let _ = writeln!(text, "\n{}\n", code.join("\n"));
            } else {
                text += &wrapped(begin, paragraph, 8);
            }
        }
        text.push('\n');
    }
    text.replace("\n\n\n", "\n\n").trim_end().to_owned() + "\n"
}

/// All exercises, with the learner's progress.
fn list(folder: &Folder) -> String {
    let mut text = String::new();
    let mut solved = 0;
    for exercise in EXERCISES {
        let is_solved = folder.is_solved(exercise);
        solved += usize::from(is_solved);
        let mark = if is_solved { format!("{GOOD}✔{GOOD:#}") } else { " ".into() };
        let hints = match folder.hints(exercise) {
            0 => String::new(),
            1 => "  1 hint".into(),
            count => format!("  {count} hints"),
        };
        let line = format!("{:<26} {}{hints}", exercise.name, exercise.role);
        let _ = writeln!(text, "{mark} {}", line.trim_end());
    }
    let _ = writeln!(text, "\n{solved} of {} solved", EXERCISES.len());
    text
}

/// The lines in which the learner's program and the solution differ, with what is around them.
fn difference(folder: &Folder, exercise: &Exercise) -> Result<String> {
    const AROUND: usize = 3;
    let yours = folder.text(exercise)?;
    let diff = TextDiff::from_lines(yours.as_str(), exercise.solution);
    if yours == exercise.solution {
        return Ok("Yours is the solution, letter for letter.\n".into());
    }
    let mut text = format!("{BAD}-{BAD:#} yours   {GOOD}+{GOOD:#} the solution\n\n");
    for group in diff.grouped_ops(AROUND) {
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let (style, mark) = match change.tag() {
                ChangeTag::Delete => (BAD, '-'),
                ChangeTag::Insert => (GOOD, '+'),
                ChangeTag::Equal => (Style::new(), ' '),
            };
            let _ = writeln!(text, "{style}{mark} {}{style:#}", change.value().trim_end());
        }
        text.push('\n');
    }
    let _ = writeln!(text, "The whole program: course/examples/{}-solved.rs", exercise.name);
    Ok(text)
}

/// What is said when all are solved.
fn closing_page(folder: &Folder) -> String {
    let hints: usize = EXERCISES.iter().map(|exercise| folder.hints(exercise)).sum();
    let paragraphs = [
        format!(
            "You have solved all {} exercises, with {hints} of {} hints. Each flaw is one that real \
             programs have: no compiler and no test on a quiet machine finds it.",
            EXERCISES.len(),
            3 * EXERCISES.len()
        ),
        "What next? Have a program of your own checked, in any language: PROVE.md. Or take one of \
         ours as a start: `cargo xtask new rpc ../my-service`. Or read how the services do all of \
         this at once; the list below says where."
            .into(),
    ];
    let mut text = format!("{}\n{GOOD}✔{GOOD:#} {TITLE}The end{TITLE:#}\n\n", "━".repeat(WIDTH));
    for paragraph in paragraphs {
        text += &wrapped("", &paragraph, 0);
        text.push('\n');
    }
    for exercise in EXERCISES {
        let _ = writeln!(text, "{:<26} {}", exercise.name, exercise.production);
    }
    text
}

/// What may happen while the learner edits.
enum Input {
    Key(char),
    Saved,
}

/// The course, from the first exercise that is not solved.
fn course(folder: &mut Folder) -> Result<()> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        if let Some(exercise) = folder.next() {
            print!("{}", introduction(folder, exercise));
            check(folder, exercise)?;
            println!("\nThis is no terminal: `cargo xtask learn check`, `hint`, `solution`.");
        } else {
            print!("{}", closing_page(folder));
        }
        return Ok(());
    }
    let (sender, inputs) = channel();
    let mut watching = false;
    let saved = sender.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = saved.send(Input::Saved);
        }
    })?;
    thread::spawn(move || read_keys(&sender));
    while let Some(exercise) = folder.next() {
        println!("{}", "━".repeat(WIDTH));
        print!("{}", introduction(folder, exercise));
        folder.text(exercise)?;
        if !watching {
            // The folder: editors replace the file.
            watcher.watch(folder.path(), RecursiveMode::NonRecursive)?;
            watching = true;
        }
        if !solve(folder, exercise, &inputs)? {
            return Ok(());
        }
    }
    print!("{}", closing_page(folder));
    Ok(())
}

/// Checks the exercise each time it is saved, and does what keys say, until it is solved and the
/// learner wants the next one. Returns false if the learner wants to quit.
fn solve(
    folder: &mut Folder,
    exercise: &'static Exercise,
    inputs: &Receiver<Input>,
) -> Result<bool> {
    let mut checked = None;
    let mut is_solved = false;
    let mut before = None;
    loop {
        let text = folder.text(exercise)?;
        if checked.as_ref() != Some(&text) {
            if checked.is_some() {
                println!("\n{FAINT}{} was saved{FAINT:#}\n", folder.shown(exercise));
            }
            is_solved = check(folder, exercise)?;
            if is_solved {
                print!("{}", praise(exercise));
            }
            checked = Some(text);
            menu(is_solved);
        }
        let Input::Key(key) = wait(inputs)? else { continue };
        // What cannot be undone is asked for twice.
        let is_insisting = before.replace(key) == Some(key);
        match key {
            'n' if is_solved => return Ok(true),
            'q' => {
                println!("`cargo xtask learn` goes on here.");
                return Ok(false);
            }
            'h' if folder.hints(exercise) < exercise.hints.len() => {
                folder.hinted(exercise)?;
                print!("\n{}", hints(folder, exercise));
            }
            'h' => print!("\n{}There are no more hints.\n", hints(folder, exercise)),
            's' if is_solved || is_insisting => print!("\n{}", difference(folder, exercise)?),
            's' => println!("\nNot solved yet. Press s again to see the solution nevertheless."),
            'r' if is_insisting => folder.reset(exercise)?,
            'r' => println!("\nPress r again to throw away what you have changed."),
            'l' => print!("\n{}", list(folder)),
            _ => continue,
        }
        menu(is_solved);
    }
}

fn menu(is_solved: bool) {
    let next = if is_solved { "n next  " } else { "" };
    println!(
        "\n{FAINT}{next}h hint  s solution  r reset  l list  q quit   (saving checks again){FAINT:#}"
    );
}

/// Waits for a key, without Enter, or for a file that was saved.
fn wait(inputs: &Receiver<Input>) -> Result<Input> {
    /// Editors write in several steps.
    const SETTLED: Duration = Duration::from_millis(100);
    enable_raw_mode()?;
    let mut input = inputs.recv().context("the terminal is gone");
    while let Ok(Input::Saved) = input
        && let Ok(next) = inputs.recv_timeout(SETTLED)
    {
        input = Ok(next);
    }
    disable_raw_mode()?;
    input
}

/// Sends each key. Ctrl-C, Ctrl-D and the end of the terminal mean q; Enter means n.
fn read_keys(inputs: &Sender<Input>) {
    loop {
        let key = match crossterm::event::read() {
            Ok(Event::Key(key)) if key.kind == KeyEventKind::Press => key,
            Ok(_) => continue,
            Err(_) => break,
        };
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        let letter = match key.code {
            KeyCode::Char('c' | 'd') if is_control => 'q',
            // Enter, pressed while a check still ran: the terminal made a line feed of it then.
            KeyCode::Char('j') if is_control => 'n',
            KeyCode::Char(letter) => letter.to_ascii_lowercase(),
            KeyCode::Enter => 'n',
            _ => continue,
        };
        if inputs.send(Input::Key(letter)).is_err() {
            return;
        }
    }
    let _ = inputs.send(Input::Key('q'));
}
