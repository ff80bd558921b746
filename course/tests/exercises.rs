//! Each exercise: its flaw fails the last of its checks, for the stated reason, and no other; its
//! solution holds all of them, and is a small change; the hints give nothing away too early.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use course::{EXERCISES, Exercise};
use prove::{Candidate, Plan, Verdict};
use similar::{ChangeTag, TextDiff};
use testkit::example;

macro_rules! exercises {
    ($($test:ident $name:literal: $reason:literal,)*) => {
        $(
            #[test]
            fn $test() -> Result<()> {
                let exercise = course::find($name).context("no such exercise")?;
                has_one_flaw(exercise, $reason)?;
                is_solved(exercise)
            }
        )*

        /// The names of those that are tested.
        const TESTED: &[&str] = &[$($name),*];
    };
}

exercises! {
    last_words "01-last-words": "of 150 entries never arrived",
    too_late "02-too-late": "0 of 1 message came back",
    three_copies "03-three-copies": "2000 entries were handled",
    the_obvious_way_out "04-the-obvious-way-out": "entries were not handled, 0 twice",
    slow_and_silent "05-slow-and-silent": "entries were dropped in silence",
    one_bad_request "06-one-bad-request": "bad requests got no error reply",
    no_answer "07-no-answer": "no server and no reply in time read alike",
    counted_too_early "08-counted-too-early": "100 orders reported",
    sent_twice "09-sent-twice": "0 orders reported and not stored",
    acknowledged_too_early "10-acknowledged-too-early": "of 12000 orders were never handled",
    the_poison_order "11-the-poison-order": "messages stay unacknowledged",
    the_deaf_watch "12-the-deaf-watch": "its last line says off, and the value is on",
    two_admins "13-two-admins": "of 60 writes changed nothing",
    before_the_puback "14-before-the-puback": "readings never arrived",
    a_presence_that_lies "15-a-presence-that-lies": "it is online for ever",
    denied "16-denied": "a denial looks like success",
    five_attempts "17-five-attempts": "a job that failed was tried again after",
    the_empty_letter "18-the-empty-letter": "the bad job is not dead",
}

fn verdicts(exercise: &Exercise, program: &str) -> Result<Vec<Verdict>> {
    let role = prove::role(exercise.role).context("no such role")?;
    let named = |name| role.checks.iter().find(|check| check.name == name);
    let checks = exercise.checks.iter().map(|name| named(*name).context("no such check"));
    let folder = format!("{}/{program}", env!("CARGO_TARGET_TMPDIR"));
    let plan = Plan { checks: checks.collect::<Result<_>>()?, seed: 1, folder: folder.into() };
    prove::run(&plan, &Candidate::new([example(program)])?, |_| ())
}

fn has_one_flaw(exercise: &Exercise, reason: &str) -> Result<()> {
    let verdicts = verdicts(exercise, exercise.name)?;
    let (last, others) = verdicts.split_last().context("no checks")?;
    for verdict in others {
        ensure!(verdict.holds(), "{verdict:#?}");
    }
    ensure!(!last.holds() && last.figure().contains(reason), "{last:#?}");
    Ok(())
}

fn is_solved(exercise: &Exercise) -> Result<()> {
    for verdict in verdicts(exercise, &format!("{}-solved", exercise.name))? {
        ensure!(verdict.holds(), "{verdict:#?}");
    }
    Ok(())
}

#[test]
fn all_are_tested() {
    let names: Vec<_> = EXERCISES.iter().map(|exercise| exercise.name).collect();
    assert_eq!(names, TESTED);
}

#[test]
fn a_solution_is_a_small_change_and_fits_the_screen() {
    for exercise in EXERCISES {
        let diff = TextDiff::from_lines(exercise.source, exercise.solution);
        let changed = diff.iter_all_changes().filter(|change| change.tag() != ChangeTag::Equal);
        let changed = changed.count();
        assert!((1..=20).contains(&changed), "{}: {changed} lines", exercise.name);
        // Two columns are for the marks of the difference.
        for line in exercise.solution.lines().chain(exercise.source.lines()) {
            assert!(line.chars().count() <= 78, "{}: {line}", exercise.name);
        }
    }
}

#[test]
fn a_story_is_short_and_the_same_in_the_solution() {
    for exercise in EXERCISES {
        let (number, _) = exercise.name.split_once('-').unwrap_or_default();
        assert!(exercise.title().starts_with(number), "{}", exercise.title());
        let story = exercise.story();
        let lines = story.lines().filter(|line| !line.is_empty()).count();
        assert!((3..=10).contains(&lines), "{}: {lines} lines", exercise.name);
        let comment = |program: &'static str| program.split("\n\n").next();
        assert_eq!(comment(exercise.source), comment(exercise.solution));
    }
}

/// The methods and types that a program uses: `flush` of `.flush(`, `ConnectOptions` of
/// `ConnectOptions::new`.
fn calls(code: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut calls = BTreeSet::new();
    for line in code {
        for (at, _) in line.match_indices(['(', ':']) {
            let rest = line[..at].trim_end_matches(is_name);
            let name = &line[rest.len()..at];
            if rest.ends_with('.') || name.starts_with(char::is_uppercase) {
                calls.insert(name);
            }
        }
    }
    calls
}

#[test]
fn only_the_third_hint_gives_the_call_away() {
    for exercise in EXERCISES {
        let known = calls(exercise.source);
        let new: BTreeSet<_> = calls(exercise.solution).difference(&known).copied().collect();
        let words = |text: &'static str| -> BTreeSet<&str> {
            text.split(|c: char| !c.is_alphanumeric() && c != '_').collect()
        };
        let [first, second, third] = exercise.hints;
        for early in [first, second] {
            let given_away: Vec<_> = words(early).intersection(&new).copied().collect();
            assert!(given_away.is_empty(), "{}: {given_away:?} in {early:?}", exercise.name);
            assert!(!early.contains("\n    "), "{}: code in {early:?}", exercise.name);
        }
        assert!(third.contains("\n    "), "{}: no code in {third:?}", exercise.name);
        let is_there = new.is_empty() || !words(third).is_disjoint(&new);
        assert!(is_there, "{}: none of {new:?} in {third:?}", exercise.name);
    }
}

#[test]
fn what_is_said_to_be_production_code_is_there() {
    for exercise in EXERCISES {
        let file = format!("{}/../{}", env!("CARGO_MANIFEST_DIR"), exercise.production);
        assert!(std::path::Path::new(&file).is_file(), "{file}");
    }
}
