//! `cargo xtask soak`: faults against a cluster.

use std::process::ExitCode;
use std::time::Duration;

use anstream::println;
use anyhow::{Context, Result};
use clap::Args;
use clustered::soak::{Plan, run as soak};

/// Lets servers of a cluster fail, and compares what was acknowledged with what is there
#[derive(Args)]
pub struct Call {
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    minutes: f64,
    /// Which faults there are: the same for the same number
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// Exit code 1 if anything acknowledged is missing.
pub fn run(call: &Call) -> Result<ExitCode> {
    let Call { minutes, seed } = *call;
    let duration = Duration::try_from_secs_f64(minutes * 60.0).context("--minutes")?;
    println!("three servers, three copies of a stream and a bucket on disk, seed {seed}");
    let report = soak(&Plan { seed, duration, ..Plan::default() }, |fault| println!("{fault}"))?;
    println!("\n{report}");
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
