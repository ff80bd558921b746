//! The checks of `cargo xtask prove`: the services hold all of them, and each first version fails
//! exactly those that are listed here.

use anyhow::Result;
use testkit::example;

/// Folder for the output of the programs.
const KEPT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/prove");

#[test]
fn config_app_holds_every_check() -> Result<()> {
    let failing = prove::failing("config-app", env!("CARGO_BIN_EXE_config-app"), KEPT)?;
    assert!(failing.is_empty(), "{failing:#?}");
    Ok(())
}

#[test]
fn first_config_app_fails_these_checks() -> Result<()> {
    let failing = prove::failing("config-app", example("first-config-app"), KEPT)?;
    let expected = [
        "bucket-made-anew",
        "bucket-missing",
        "ends",
        "ends-without-nats-server",
        "nats-server-restarted",
    ];
    assert!(failing.keys().eq(&expected), "{failing:#?}");
    Ok(())
}

#[test]
fn config_admin_holds_every_check() -> Result<()> {
    let failing = prove::failing("config-admin", env!("CARGO_BIN_EXE_config-admin"), KEPT)?;
    assert!(failing.is_empty(), "{failing:#?}");
    Ok(())
}

#[test]
fn first_config_admin_fails_these_checks() -> Result<()> {
    let failing = prove::failing("config-admin", example("first-config-admin"), KEPT)?;
    let expected = [
        "ends-without-nats-server",
        "lost-acknowledgement",
        "sets-a-value",
        "turns-back",
        "two-at-once",
    ];
    assert!(failing.keys().eq(&expected), "{failing:#?}");
    Ok(())
}
