//! `cargo xtask check`: what has to hold before a commit.

use anstream::println;
use anyhow::{Context, Result, ensure};

use crate::workspace::cargo;

/// Each check, in the order of its cost. All run, also where an early one fails.
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
    // It is a tool of its own, and the advisories it compares with come over the network.
    if cargo().args(["deny", "--version"]).output()?.status.success() {
        println!("checking dependencies");
        if !cargo().args(["deny", "check"]).status()?.success() {
            failed.push("dependencies");
        }
    } else {
        println!(
            "NOT checked: dependencies against deny.toml, for cargo-deny is not installed (`cargo install cargo-deny`)"
        );
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}
