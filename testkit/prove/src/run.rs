//! Runs the checks of a role, several at a time.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::instance::Candidate;
use crate::trial::Trial;
use crate::verdict::Flaw;
use crate::{Check, Role};

/// Most of a check is waiting, so more run at once than there are processors.
const AT_ONCE: usize = 4;

/// Which checks are made, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The checks, in the order of their verdicts.
    pub checks: Vec<&'static Check>,
    /// Decides what a check leaves to chance.
    pub seed: u64,
    /// The folder in which the candidate's output is kept, a folder in it for each check.
    pub folder: PathBuf,
}

impl Plan {
    /// All checks of a role. The candidate's output is kept in `folder`.
    #[must_use]
    pub fn new(role: &Role, folder: impl Into<PathBuf>) -> Self {
        Self { checks: role.checks.iter().collect(), seed: 1, folder: folder.into() }
    }
}

/// What a check has found.
#[derive(Debug)]
pub struct Verdict {
    /// The check.
    pub check: &'static Check,
    /// What it has measured, or what is wrong.
    pub result: Result<String, Flaw>,
    /// The folder with the candidate's output.
    pub folder: PathBuf,
}

impl Verdict {
    /// Whether what the check claims holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.result.is_ok()
    }

    /// What was measured, or what was lost.
    #[must_use]
    pub fn figure(&self) -> &str {
        match &self.result {
            Ok(figure) => figure,
            Err(flaw) => &flaw.figure,
        }
    }
}

/// Makes all checks of a role with one program, and returns the names of those that fail, each with
/// what is wrong.
///
/// # Errors
///
/// If there is no such role, or a check could not be made.
pub fn failing(
    role: &str,
    program: impl AsRef<OsStr>,
    folder: impl Into<PathBuf>,
) -> Result<BTreeMap<&'static str, Flaw>> {
    let role = crate::role(role).with_context(|| format!("there is no role {role}"))?;
    let name = Path::new(program.as_ref()).file_name().unwrap_or_default().to_owned();
    let plan = Plan::new(role, folder.into().join(name));
    let verdicts = run(&plan, &Candidate::new([program.as_ref()])?, |_| ())?;
    let flaw = |verdict: Verdict| Some((verdict.check.name, verdict.result.err()?));
    Ok(verdicts.into_iter().filter_map(flaw).collect())
}

/// What happens while checks are made.
#[derive(Debug)]
pub enum Event<'a> {
    /// A check begins.
    Begins(&'static Check),
    /// A check has ended.
    Ends(&'a Verdict),
}

/// The check that comes first, by itself. If it fails, the others are not made.
const FIRST: &str = "starts";

/// Makes the checks of a plan, and tells `watch` of each beginning and end. Returns the verdicts in
/// the plan's order.
///
/// # Errors
///
/// If a check could not be made.
pub fn run(
    plan: &Plan,
    candidate: &Candidate,
    mut watch: impl FnMut(Event<'_>),
) -> Result<Vec<Verdict>> {
    let mut verdicts: Vec<(usize, Verdict)> = Vec::new();
    if let Some(first) = plan.checks.first().filter(|check| check.name == FIRST) {
        watch(Event::Begins(first));
        let verdict = judge(plan, candidate, first)?;
        watch(Event::Ends(&verdict));
        let is_started = verdict.holds();
        verdicts.push((0, verdict));
        for (number, check) in plan.checks.iter().enumerate().skip(1) {
            if !is_started {
                let verdict = not_made(plan, check);
                watch(Event::Ends(&verdict));
                verdicts.push((number, verdict));
            }
        }
    }
    let next = AtomicUsize::new(verdicts.len());
    let (sender, receiver) = channel();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(plan.checks.len()) {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(check) = plan.checks.get(number) else { return };
                    let _ = sender.send(Step::Begins(check));
                    let verdict = judge(plan, candidate, check);
                    let _ = sender.send(Step::Ends(number, verdict));
                }
            });
        }
        drop(sender);
        for step in receiver {
            match step {
                Step::Begins(check) => watch(Event::Begins(check)),
                Step::Ends(number, verdict) => {
                    // The checks that have not begun are left out.
                    let verdict = verdict
                        .inspect_err(|_| next.store(plan.checks.len(), Ordering::Relaxed))?;
                    watch(Event::Ends(&verdict));
                    verdicts.push((number, verdict));
                }
            }
        }
        anyhow::Ok(())
    })?;
    verdicts.sort_by_key(|(number, _)| *number);
    Ok(verdicts.into_iter().map(|(_, verdict)| verdict).collect())
}

enum Step {
    Begins(&'static Check),
    Ends(usize, Result<Verdict>),
}

fn not_made(plan: &Plan, check: &'static Check) -> Verdict {
    let result = Err(Flaw::new("not tried, because the program does not start"));
    Verdict { check, result, folder: plan.folder.join(check.name) }
}

fn judge(plan: &Plan, candidate: &Candidate, check: &'static Check) -> Result<Verdict> {
    let folder = plan.folder.join(check.name);
    let trial = Trial::new(candidate, folder.clone(), plan.seed)?;
    let result = match trial.run(check) {
        Ok(figure) => Ok(figure),
        Err(error) => match error.downcast::<Flaw>() {
            Ok(flaw) => Err(flaw),
            Err(error) => return Err(anyhow!("cannot make the check {}: {error:#}", check.name)),
        },
    };
    Ok(Verdict { check, result, folder })
}
