//! The checks of `cargo xtask prove`: the services hold all of them, and each first version fails
//! exactly those that are listed here.

use anyhow::Result;
use testkit::example;

/// Folder for the output of the programs.
const KEPT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/prove");

#[test]
fn order_publisher_holds_every_check() -> Result<()> {
    let failing = prove::failing("order-publisher", env!("CARGO_BIN_EXE_order-publisher"), KEPT)?;
    assert!(failing.is_empty(), "{failing:#?}");
    Ok(())
}

#[test]
fn first_order_publisher_fails_these_checks() -> Result<()> {
    let failing = prove::failing("order-publisher", example("first-order-publisher"), KEPT)?;
    let expected = [
        "ends-without-nats-server",
        "gives-up",
        "other-settings",
        "stopped-in-full-flow",
        "three-kills",
    ];
    assert!(failing.keys().eq(&expected), "{failing:#?}");
    Ok(())
}

#[test]
fn order_consumer_holds_every_check() -> Result<()> {
    let failing = prove::failing("order-consumer", env!("CARGO_BIN_EXE_order-consumer"), KEPT)?;
    assert!(failing.is_empty(), "{failing:#?}");
    Ok(())
}

#[test]
fn first_order_consumer_fails_these_checks() -> Result<()> {
    let failing = prove::failing("order-consumer", example("first-order-consumer"), KEPT)?;
    let expected = [
        "ends",
        "ends-without-nats-server",
        "goes-on",
        "poison-order",
        "slow-handler",
        "stopped-in-full-flow",
        "stream-made-anew",
        "stream-missing",
    ];
    assert!(failing.keys().eq(&expected), "{failing:#?}");
    Ok(())
}
