//! What several of these tests need.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use testkit::{Ended, Program};

/// The root of the workspace.
pub fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// The folder into which cargo builds when a test calls it. It is kept from run to run, so that
/// only the first run builds the dependencies, and it is not the folder of the tests themselves,
/// whose programs stay as they are.
pub fn nested() -> PathBuf {
    root().join("target/nested")
}

/// Lets the cargo that `command` runs build into [`nested`], without debug information: all tests
/// share what is built there, and that takes less time.
pub fn builds_nested(command: &mut Command) -> &mut Command {
    command.env("CARGO_TARGET_DIR", nested()).env("CARGO_PROFILE_DEV_DEBUG", "0")
}

/// Waits until no other test uses the programs in [`nested`], and keeps others from it until the
/// value is dropped. Several packages have programs of the same name: a test that builds one must
/// have run it before another test builds its own.
pub fn lock_nested() -> Result<File> {
    fs::create_dir_all(nested())?;
    let lock = File::create(nested().join("lock"))?;
    lock.lock()?;
    Ok(lock)
}

/// Runs `command` to its end. The first time that can take a whole build.
pub fn run(command: &mut Command) -> Result<Ended> {
    Program::spawn(command)?.timeout(Duration::from_secs(1_800)).wait()
}

/// Checks all items at a time: most of a check is waiting.
pub fn in_parallel<T: Send>(
    items: impl Iterator<Item = T>,
    check: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    thread::scope(|scope| {
        let check = &check;
        let checks: Vec<_> = items.map(|item| scope.spawn(move || check(item))).collect();
        checks.into_iter().try_for_each(|it| it.join().unwrap_or_else(|_| bail!("a panic")))
    })
}
