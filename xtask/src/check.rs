//! `cargo xtask check`: format, lints, documentation and dependencies.

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
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}
