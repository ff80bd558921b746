//! `cargo xtask …`: everything a contributor or newcomer runs that is not an experiment.

mod check;
mod demo;
mod learn;
mod live;
mod new;
mod prove;
mod soak;
mod up;
mod verdicts;
mod workspace;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use secured::Stage;
use testkit::Ports;

/// Runs, checks and extends NATS Playground.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Plays experiments as their READMEs show them, against a private server
    Demo {
        /// Their names; all experiments by default
        experiments: Vec<String>,
        /// A running server to use in place of a private one
        #[arg(long, value_name = "URL")]
        server: Option<String>,
        /// Waits for Enter between two experiments
        #[arg(long)]
        step: bool,
    },
    /// Runs a server in the foreground: NATS on port 4222, MQTT on 1883, monitoring on 8222
    Up {
        /// The folder in which it keeps its data [default: target/nats-server]
        #[arg(long, value_name = "FOLDER")]
        data: Option<PathBuf>,
        /// Deletes what an earlier server has stored in that folder: streams, buckets, sessions
        #[arg(long)]
        fresh: bool,
        /// Makes users and certificates, and lets each program do only what it needs. The earlier
        /// stages of the lesson: one account in which all may do everything, or with lists
        #[arg(
            long,
            value_name = "STAGE",
            num_args = 0..=1,
            require_equals = true,
            default_missing_value = "accounts",
            value_parser = PossibleValuesParser::new(Stage::NAMES).try_map(|name| name.parse::<Stage>())
        )]
        secure: Option<Stage>,
        /// With --secure: an operator vouches for the accounts, and they for their users, in JWTs
        #[arg(long, requires = "secure")]
        creds: bool,
        /// Runs three servers as one cluster, and does what keys say: kill one, stop one, cut one off
        #[arg(long, conflicts_with = "secure")]
        cluster: bool,
        /// Runs a hub and a leaf node, and does what keys say: cut the line between them, kill one
        #[arg(long, conflicts_with_all = ["secure", "cluster"])]
        edge: bool,
        /// Other ports for NATS, MQTT and monitoring, for tests; once for each server
        #[arg(long, hide = true, value_parser = up::ports)]
        ports: Vec<Ports>,
    },
    /// Measures the number behind each key insight, in a release build
    Bench {
        /// Arguments of the benchmark: names of experiments, --json, --plots; see --help
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Rewrites the terminal sessions of READMEs if programs print something else by now
    Bless {
        /// Their names; all experiments by default
        experiments: Vec<String>,
    },
    /// Makes an experiment the start of a service: a workspace of its own
    New {
        /// Its name
        experiment: String,
        /// A folder that does not exist yet
        destination: PathBuf,
        /// The name of its crate [default: the folder's name]
        #[arg(long)]
        name: Option<String>,
    },
    /// Breaks a program, in any language, and says what was lost
    Prove(prove::Call),
    /// Programs with one flaw each: find it, mend it, have it checked
    Learn(learn::Call),
    /// Lets servers of a cluster fail, and compares what was acknowledged with what is there
    Soak(soak::Call),
    /// Shows the programs of all experiments on a page, with buttons that break them
    Live(live::Call),
    /// Checks format, lints, documentation, dependencies and the page of `live`: run it before a
    /// commit
    Check,
}

fn main() -> ExitCode {
    match run(Args::parse().task) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Demo { experiments, server, step } => {
            demo::run(&experiments, server.as_deref(), step)?;
        }
        Task::Up { data, fresh, cluster: true, ports, .. } => {
            up::cluster::run(data, fresh, &ports)?;
        }
        Task::Up { data, fresh, edge: true, ports, .. } => up::edge::run(data, fresh, &ports)?,
        Task::Up { data, fresh, secure: None, .. } => up::run(data, fresh)?,
        Task::Up { data, fresh, secure: Some(stage), creds, ports, .. } => {
            up::run_secure(data, fresh, stage, creds, &ports)?;
        }
        Task::Bench { args } => workspace::bench(&args)?,
        Task::Bless { experiments } => workspace::bless(&experiments)?,
        Task::New { experiment, destination, name } => {
            new::run(&experiment, &destination, name.as_deref())?;
        }
        Task::Prove(call) => return prove::run(&call),
        Task::Learn(call) => return learn::run(&call),
        Task::Soak(call) => return soak::run(&call),
        Task::Live(call) => live::run(call)?,
        Task::Check => check::run()?,
    }
    Ok(ExitCode::SUCCESS)
}
