//! How verdicts are shown.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::io::{IsTerminal, Write as _, stderr};
use std::path::Path;

use anstream::print;
use anstyle::{AnsiColor, Style};
use anyhow::Result;
use prove::{Candidate, Check, Event, Orphans, Plan, Verdict};
use textwrap::WordSplitter;

use crate::workspace::line_of;

/// What is as it has to be.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What is not.
pub const BAD: Style = AnsiColor::Red.on_default();
/// What is read second.
pub const FAINT: Style = Style::new().dimmed();

/// How wide a line may be.
pub const WIDTH: usize = 80;

/// How much is shown of a check that fails.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub enum Detail {
    /// Nothing is shown of any check, except that it runs.
    Nothing,
    /// What was done and seen.
    Seen,
    /// The likely cause, too.
    Cause,
    /// What the program has printed, too.
    Output,
}

/// Shows verdicts in the plan's order, and what runs meanwhile.
pub struct Screen {
    order: VecDeque<&'static str>,
    /// Verdicts that came before their turn.
    early: Vec<(&'static str, String)>,
    running: Vec<&'static str>,
    /// How long the names are.
    names: usize,
    detail: Detail,
}

impl Screen {
    /// Prepares a screen for these checks.
    pub fn new(checks: &[&'static Check], detail: Detail) -> Self {
        let order = checks.iter().map(|check| check.name).collect();
        let names = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        Self { order, early: vec![], running: vec![], names, detail }
    }

    /// Makes the checks of a plan, and shows what happens.
    pub fn run(mut self, plan: &Plan, candidate: &Candidate) -> Result<Vec<Verdict>> {
        let orphans = Orphans::adopt();
        let verdicts = prove::run(plan, candidate, |event| self.take(&event))?;
        Self::clear();
        drop(orphans);
        Ok(verdicts)
    }

    fn take(&mut self, event: &Event<'_>) {
        Self::clear();
        match event {
            Event::Begins(check) => self.running.push(check.name),
            Event::Ends(verdict) => {
                self.running.retain(|name| *name != verdict.check.name);
                self.early.push((verdict.check.name, paragraph(verdict, self.names, self.detail)));
            }
        }
        while let Some(turn) = self.order.front()
            && let Some(at) = self.early.iter().position(|(name, _)| name == turn)
        {
            let (_, text) = self.early.remove(at);
            if self.detail > Detail::Nothing {
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
fn paragraph(verdict: &Verdict, names: usize, detail: Detail) -> String {
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
        let is_shown = name != "likely" || detail >= Detail::Cause;
        if is_shown && !part.is_empty() {
            text += &wrapped(&format!("    {FAINT}{name:<7}{FAINT:#} "), part, 12);
        }
    }
    if detail == Detail::Output {
        text += &printed(&verdict.folder).unwrap_or_default();
    }
    text
}

/// Wraps a paragraph that begins with `begin`; the lines that follow are indented.
pub fn wrapped(begin: &str, text: &str, indent: usize) -> String {
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
