//! The checks of `cargo xtask prove`: the services hold all of them, and each first version fails
//! exactly those that are listed here.

use anyhow::Result;
use testkit::example;

/// Folder for the output of the programs.
const KEPT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/prove");

#[test]
fn hello_holds_every_check() -> Result<()> {
    let failing = prove::failing("hello", env!("CARGO_BIN_EXE_hello"), KEPT)?;
    assert!(failing.is_empty(), "{failing:#?}");
    Ok(())
}

#[test]
fn first_hello_fails_these_checks() -> Result<()> {
    let failing = prove::failing("hello", example("first-hello"), KEPT)?;
    assert!(failing.keys().eq(&["denied"]), "{failing:#?}");
    Ok(())
}
