//! The checks of `cargo xtask prove`: the services hold all of them, and each first version fails
//! exactly those that are listed here.

use anyhow::Result;
use testkit::example;

/// Folder for the output of the programs.
const KEPT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/prove");

#[test]
fn log_worker_holds_every_check() -> Result<()> {
    let failing = prove::failing("log-worker", env!("CARGO_BIN_EXE_log-worker"), KEPT)?;
    assert!(failing.is_empty(), "{failing:#?}");
    Ok(())
}

#[test]
fn first_log_worker_fails_these_checks() -> Result<()> {
    let failing = prove::failing("log-worker", example("first-log-worker"), KEPT)?;
    let expected =
        ["burst", "ends", "ends-without-nats-server", "malformed-entries", "stopped-in-full-flow"];
    assert!(failing.keys().eq(&expected), "{failing:#?}");
    Ok(())
}

#[test]
fn log_publisher_holds_every_check() -> Result<()> {
    let failing = prove::failing("log-publisher", env!("CARGO_BIN_EXE_log-publisher"), KEPT)?;
    assert!(failing.is_empty(), "{failing:#?}");
    Ok(())
}

#[test]
fn first_log_publisher_fails_these_checks() -> Result<()> {
    let failing = prove::failing("log-publisher", example("first-log-publisher"), KEPT)?;
    assert!(failing.keys().eq(&["denied"]), "{failing:#?}");
    Ok(())
}
