//! `cargo xtask learn`, by its commands and in a terminal.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use course::EXERCISES;
use testkit::Ended;

use crate::common::{builds_nested, root, run};
use crate::terminal::Terminal;

/// Two tests build the same exercise: the program that was linked last would be that of both.
fn lock() -> MutexGuard<'static, ()> {
    static BUILDING: Mutex<()> = Mutex::new(());
    BUILDING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn learn(folder: &Path, args: &str) -> Command {
    let mut command = testkit::isolated(env!("CARGO_BIN_EXE_xtask"));
    builds_nested(&mut command).arg("learn").args(args.split_whitespace());
    command.arg("--folder").arg(folder);
    command
}

fn succeeds(folder: &Path, args: &str) -> Result<Ended> {
    let ended = run(&mut learn(folder, args))?;
    ensure!(ended.success(), "{ended:?}");
    let wide = ended.stdout.iter().find(|line| line.chars().count() > 80);
    ensure!(wide.is_none(), "more than 80 columns: {wide:?}");
    Ok(ended)
}

#[test]
fn an_exercise_is_checked_mended_and_kept_as_solved() -> Result<()> {
    let _one_at_a_time = lock();
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let last = |ended: &Ended| ended.stdout.last().cloned().unwrap_or_default();
    assert_eq!(last(&succeeds(folder, "list")?), "0 of 18 solved");

    // As it comes, it fails, and the checker says why.
    let ended = run(&mut learn(folder, "check 01-last-words"))?;
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    let printed = ended.stdout.join("\n");
    ensure!(printed.contains("✘ arrives  150 of 150 entries never arrived"), "{printed}");

    // One hint more each time.
    for count in [1, 2, 3, 3] {
        let hints = succeeds(folder, "hint last-words")?;
        let shown = hints.stdout.iter().filter(|line| line.starts_with("hint ")).count();
        assert_eq!(shown, count);
    }

    // A program that does not compile.
    let file = folder.join("01-last-words.rs");
    fs::write(&file, "fn main() { let never: u8 = \"closed\"; }")?;
    let ended = run(&mut learn(folder, "check 1"))?;
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    ensure!(ended.stderr.join("\n").contains("error[E0308]"), "{ended:?}");
    ensure!(last(&ended).contains("does not compile"), "{ended:?}");

    // The solution, as it is printed, solves it.
    fs::write(&file, succeeds(folder, "solution 1")?.stdout.join("\n"))?;
    let ended = succeeds(folder, "check")?;
    ensure!(ended.stdout.iter().any(|line| line == "✔ 01-last-words is solved."), "{ended:?}");
    let listed = succeeds(folder, "list")?;
    assert_eq!(last(&listed), "1 of 18 solved");
    ensure!(listed.stdout[0].starts_with("✔ 01-last-words"), "{listed:?}");

    // The next one is the default now; a reset one comes again.
    ensure!(succeeds(folder, "hint")?.stdout[0].contains("subscriptions"));
    succeeds(folder, "reset 1")?;
    assert_eq!(fs::read_to_string(&file)?, EXERCISES[0].source);
    assert_eq!(last(&succeeds(folder, "list")?), "0 of 18 solved");
    Ok(())
}

#[test]
fn an_unknown_exercise_is_an_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ended = run(&mut learn(folder.path(), "check 99"))?;
    assert_eq!(ended.code(), Some(1));
    assert_eq!(
        ended.stderr,
        ["error: there is no exercise \"99\"; `cargo xtask learn list` shows them"]
    );
    Ok(())
}

#[test]
fn each_lesson_names_its_exercises() -> Result<()> {
    for exercise in EXERCISES {
        let role = prove::role(exercise.role).context("no such role")?;
        let check = role.checks.iter().find(|check| exercise.checks.ends_with(&[check.name]));
        let (lesson, _) = check.and_then(|it| it.lesson.split_once('#')).context("no lesson")?;
        let text = fs::read_to_string(root().join(lesson))?;
        ensure!(text.contains(&format!("`{}`", exercise.name)), "{} in {lesson}", exercise.name);
    }
    Ok(())
}

#[test]
fn the_course_checks_what_is_saved_and_goes_on_to_the_next() -> Result<()> {
    let _one_at_a_time = lock();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("01-last-words.rs");
    let mut terminal = Terminal::start(&mut learn(folder.path(), ""))?;
    terminal.expect("1 of 18")?;
    terminal.expect("entries never arrived")?;
    terminal.expect("q quit")?;
    for (key, answer) in
        [("h", "hint 1"), ("l", "0 of 18 solved"), ("s", "Press s again"), ("r", "Press r again")]
    {
        terminal.press(key)?;
        terminal.expect(answer)?;
        terminal.expect("q quit")?;
    }

    fs::write(&file, "fn main() { let never: u8 = \"closed\"; }")?;
    terminal.expect("E0308")?;
    terminal.expect("q quit")?;
    terminal.press("rr")?;
    terminal.expect("entries never arrived")?;
    terminal.expect("q quit")?;
    terminal.press("ss")?;
    terminal.expect("client.flush().await?;")?;
    terminal.expect("q quit")?;
    fs::write(&file, EXERCISES[0].solution)?;
    terminal.expect("01-last-words is solved.")?;
    terminal.expect("n next")?;
    terminal.press("s")?;
    terminal.expect("Yours is the solution")?;
    terminal.expect("n next")?;
    // Enter, as a terminal sends it to a program that waits for a key.
    terminal.press("\r")?;
    terminal.expect("2 of 18")?;
    terminal.expect("0 of 1 message came back")?;
    terminal.expect("q quit")?;
    terminal.press("q")?;
    terminal.expect("goes on here")?;
    assert!(terminal.wait()?.success());

    // All but the last are solved; with that one the closing page comes.
    let (last, others) = EXERCISES.split_last().context("no exercises")?;
    let solved = others.iter().map(|exercise| format!("{:?}: {{\"solved\": true}}", exercise.name));
    let progress = solved.collect::<Vec<_>>().join(",");
    fs::write(folder.path().join("progress.json"), format!("{{{progress}}}"))?;
    fs::write(folder.path().join(last.file()), last.solution)?;
    let mut terminal = Terminal::start(&mut learn(folder.path(), ""))?;
    terminal.expect("18 of 18")?;
    terminal.expect("n next")?;
    // And as it arrives if it was pressed a moment too early.
    terminal.press("\n")?;
    terminal.expect("You have solved all 18 exercises")?;
    terminal.expect("jobs/src/dead.rs")?;
    assert!(terminal.wait()?.success());
    Ok(())
}
