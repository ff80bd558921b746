//! `cargo xtask check`: format, lints, documentation and dependencies, and the page in a browser.

use std::process::{Command, Stdio};

use anstream::println;
use anyhow::{Context, Result, ensure};

use crate::workspace::cargo;

/// Runs every check, even if one fails; the quick ones first.
pub fn run() -> Result<()> {
    let mut failed = Vec::new();
    for (what, args) in [
        ("format", &["fmt", "--all", "--check"][..]),
        (
            "lints",
            &["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"],
        ),
        (
            "documentation",
            &["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"],
        ),
    ] {
        println!("checking {what}");
        let mut cargo = cargo();
        cargo.args(args).env("RUSTDOCFLAGS", "--deny warnings");
        if !cargo.status().context("cannot run cargo")?.success() {
            failed.push(what);
        }
    }
    // cargo-deny is a tool of its own, and fetches advisories over the network.
    if cargo().args(["deny", "--version"]).output()?.status.success() {
        println!("checking dependencies");
        if !cargo().args(["deny", "check"]).status()?.success() {
            failed.push("dependencies");
        }
    } else {
        println!(
            "NOT checked: dependencies against deny.toml, because cargo-deny is not installed (`cargo install cargo-deny`)"
        );
    }
    let has_browser = ["chromium", "google-chrome"].into_iter().any(is_there);
    if !has_browser || !is_there("chromedriver") {
        println!(
            "NOT checked: the page of `live` in a browser, because chromium or chromedriver is not installed (Debian: `apt-get install chromium chromium-driver`)"
        );
    } else {
        println!("checking the page in a browser");
        // The page shows the programs of all experiments. `cargo test` would not build the others'.
        let built =
            cargo().args(["build", "--quiet", "--workspace", "--bins", "--examples"]).status()?;
        let mut test = cargo();
        test.args(["test", "--quiet", "--package", "live", "--test", "browser"]);
        // A browser and its programs for each test: two at a time are enough for a small machine.
        if !built.success() || !test.args(["--", "--test-threads", "2"]).status()?.success() {
            failed.push("the page in a browser");
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Whether a program is installed.
fn is_there(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
