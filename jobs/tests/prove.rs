//! The checks of `cargo xtask prove`: the service holds all of them, and the first version fails
//! exactly those that are listed here.

use anyhow::Result;
use testkit::example;

/// Folder for the output of the programs.
const KEPT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/prove");

#[test]
fn job_worker_holds_every_check() -> Result<()> {
    let failing = prove::failing("job-worker", env!("CARGO_BIN_EXE_job-worker"), KEPT)?;
    assert!(failing.is_empty(), "{failing:#?}");
    Ok(())
}

#[test]
fn first_job_worker_fails_these_checks() -> Result<()> {
    let failing = prove::failing("job-worker", example("first-job-worker"), KEPT)?;
    let expected = [
        "bad-job",
        "delayed",
        "ends",
        "ends-without-nats-server",
        "frozen",
        "killed",
        "long-job",
        "malformed",
        "nats-server-restarted",
        "order-of-a-key",
        "poison",
        "same-id",
        "stopped-in-full-flow",
    ];
    assert!(failing.keys().eq(&expected), "{failing:#?}");
    Ok(())
}
