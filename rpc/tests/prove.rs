//! The checks of `cargo xtask prove`: the services hold all of them, and each first version fails
//! exactly those that are listed here.

use anyhow::Result;
use testkit::example;

/// Folder for the output of the programs.
const KEPT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/prove");

#[test]
fn math_server_holds_every_check() -> Result<()> {
    let failing = prove::failing("math-server", env!("CARGO_BIN_EXE_math-server"), KEPT)?;
    assert!(failing.is_empty(), "{failing:#?}");
    Ok(())
}

#[test]
fn math_service_holds_every_check() -> Result<()> {
    let failing = prove::failing("math-server", env!("CARGO_BIN_EXE_math-service"), KEPT)?;
    assert!(failing.is_empty(), "{failing:#?}");
    Ok(())
}

#[test]
fn first_math_server_fails_these_checks() -> Result<()> {
    let failing = prove::failing("math-server", example("first-math-server"), KEPT)?;
    let expected = [
        "bad-requests",
        "ends",
        "ends-without-nats-server",
        "rolling-restarts",
        "rolling-restarts-far-away",
        "stopped-with-requests-in-hand",
    ];
    assert!(failing.keys().eq(&expected), "{failing:#?}");
    Ok(())
}

#[test]
fn math_client_holds_every_check() -> Result<()> {
    let failing = prove::failing("math-client", env!("CARGO_BIN_EXE_math-client"), KEPT)?;
    assert!(failing.is_empty(), "{failing:#?}");
    Ok(())
}

#[test]
fn first_math_client_fails_these_checks() -> Result<()> {
    let failing = prove::failing("math-client", example("first-math-client"), KEPT)?;
    assert!(failing.keys().eq(&["tells-apart"]), "{failing:#?}");
    Ok(())
}
