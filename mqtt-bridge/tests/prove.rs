//! The checks of `cargo xtask prove`: the services hold all of them, and each first version fails
//! exactly those that are listed here.

use anyhow::Result;
use testkit::example;

/// Folder for the output of the programs.
const KEPT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/prove");

#[test]
fn sensor_holds_every_check() -> Result<()> {
    let failing = prove::failing("sensor", env!("CARGO_BIN_EXE_sensor"), KEPT)?;
    assert!(failing.is_empty(), "{failing:#?}");
    Ok(())
}

#[test]
fn first_sensor_fails_these_checks() -> Result<()> {
    let failing = prove::failing("sensor", example("first-sensor"), KEPT)?;
    let expected = [
        "bad-ids",
        "broker-killed",
        "ends",
        "follows-commands",
        "last-will",
        "presence",
        "unacknowledged",
    ];
    assert!(failing.keys().eq(&expected), "{failing:#?}");
    Ok(())
}

#[test]
fn recorder_holds_every_check() -> Result<()> {
    let failing = prove::failing("recorder", env!("CARGO_BIN_EXE_recorder"), KEPT)?;
    assert!(failing.is_empty(), "{failing:#?}");
    Ok(())
}
