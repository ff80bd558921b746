//! What a cluster has acknowledged, through faults.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::jetstream::stream::StorageType;
use clustered::faults::Faults;
use clustered::history::Report;
use clustered::soak::{Plan, run};

const DURATION: Duration = Duration::from_secs(20);

/// The faults, and the report.
fn soak(plan: &Plan) -> Result<(String, Report)> {
    let mut faults = Vec::new();
    let report = run(plan, |fault| faults.push(fault.to_owned()))?;
    Ok((format!("{}\n{report}", faults.join("\n")), report))
}

#[test]
fn what_three_copies_have_acknowledged_is_there_after_twenty_seconds_of_faults() -> Result<()> {
    let (shown, report) = soak(&Plan { duration: DURATION, ..Plan::default() })?;
    assert!(report.holds(), "{shown}");
    Ok(())
}

#[test]
fn one_copy_in_memory_is_lost_and_found_missing() -> Result<()> {
    // Faults among which each server is ended: one of them has the copy.
    let ends_all = |seed: &u64| {
        let mut faults = Faults::new(*seed);
        let ended: BTreeSet<_> = (0..2).flat_map(|_| faults.next(3).ends().to_vec()).collect();
        ended.len() == 3
    };
    let seed = (1..1000).find(ends_all).context("no such seed")?;
    let memory = Plan { seed, replicas: 1, storage: StorageType::Memory, ..Plan::default() };
    let (shown, report) = soak(&Plan { duration: DURATION, ..memory })?;
    assert!(!report.lost.is_empty(), "{shown}");
    Ok(())
}
