//! What several of these tests need.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use testkit::{Ended, Program};

/// The root of the workspace.
pub fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// Where cargo builds when a test calls it: kept from run to run, and apart from what the tests
/// themselves are built into.
pub fn nested() -> PathBuf {
    root().join("target/nested")
}

/// Runs it to its end. The first time, that can take a whole build.
pub fn run(command: &mut Command) -> Result<Ended> {
    Program::spawn(command)?
        .patience(Duration::from_secs(1_800))
        .wait()
}
