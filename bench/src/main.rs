//! The numbers behind the lessons.
//!
//! ```sh
//! cargo xtask bench                # every experiment
//! cargo xtask bench rpc --json     # one, for a program to read
//! cargo xtask bench rpc --plots    # the pictures in its README, instead of tables
//! ```
//!
//! Each experiment's module measures what its lesson claims: both sides in one run, in turns, on
//! a private server. What counts are the ratios: the same machine was slow or fast for all rows.

mod cluster;
mod edge;
mod jetstream;
mod jobs;
mod kv;
mod mqtt_bridge;
mod plot;
mod queue_groups;
mod report;
mod rpc;
mod secure;
mod stage;

use std::io::{Write, stderr, stdout};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use clap::builder::PossibleValuesParser;

use crate::plot::Plot;
use crate::report::Table;
use crate::stage::Stage;

/// Measures some of an experiment. Its tables are printed before the next one begins.
type Step = fn(&Stage) -> Result<Vec<Table>>;

const BENCHES: &[(&str, &[Step])] = &[
    ("queue-groups", queue_groups::STEPS),
    ("rpc", rpc::STEPS),
    ("jetstream", &[jetstream::bench]),
    ("kv", &[kv::bench]),
    ("mqtt-bridge", &[mqtt_bridge::bench]),
    ("jobs", jobs::STEPS),
    ("secure", &[secure::bench]),
    ("cluster", cluster::STEPS),
    ("edge", &[edge::bench]),
];

/// Measures what a picture shows.
type Picture = fn(&Stage) -> Result<Plot>;

/// Experiments, and the names of their pictures.
const PLOTS: &[(&str, &str, Picture)] = &[
    ("queue-groups", "growth", queue_groups::plot_growth),
    ("queue-groups", "losses", queue_groups::plot_losses),
    ("rpc", "against-http", rpc::plot),
    ("jetstream", "acknowledgements", jetstream::plot_acknowledgements),
    ("jetstream", "duplicates", jetstream::plot_duplicates),
    ("kv", "watch-against-poll", kv::plot),
    ("mqtt-bridge", "latency", mqtt_bridge::plot),
];

/// Measures what the lessons claim, and prints medians and ratios.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Experiments to measure, all of them unless named
    #[arg(value_parser = PossibleValuesParser::new(BENCHES.iter().map(|(name, _)| *name)))]
    names: Vec<String>,
    /// How often each row is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Measure what the pictures show, and write their JSON and SVG to the experiments' folders
    #[arg(long, conflicts_with = "json")]
    plots: bool,
    /// Draw the pictures again from the JSON that is there
    #[arg(long, conflicts_with_all = ["json", "plots", "names"])]
    redraw: bool,
}

fn main() -> ExitCode {
    // The parts of a measurement are processes, as the programs are that it compares.
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [part, args @ ..] = &args[..]
        && part == stage::PART
    {
        let args = args.to_vec();
        return match args.first() {
            Some(part) if [secure::FLOOD, secure::WORK].contains(&part.as_str()) => {
                ended(stage::run(secure::part(args)))
            }
            Some(part) if part == jobs::PUBLISHER => ended(stage::run(jobs::part(args))),
            Some(part) if part.starts_with("bare-") => ended(stage::run(queue_groups::part(args))),
            _ => ended(stage::run(rpc::part(args))),
        };
    }
    // Ctrl-C ends it at once, and its parts with it.
    let args = Args::parse();
    ended(match (args.plots, args.redraw) {
        (true, _) => plots(&args),
        (_, true) => {
            plot::kept().and_then(|kept| kept.iter().try_for_each(|json| plot::redraw(json)))
        }
        _ => bench(&args),
    })
}

fn ended(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Fails only if stderr is closed.
            let _ = writeln!(stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Args {
    fn names(&self, experiment: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| name == experiment)
    }
}

fn plots(args: &Args) -> Result<()> {
    let stage = Stage::new(args.runs)?;
    for (experiment, name, measure) in PLOTS {
        if args.names(experiment) {
            let plot = measure(&stage)
                .with_context(|| format!("cannot measure {name} of {experiment}"))?;
            plot::keep(plot, experiment, name, args.runs)?;
            writeln!(stdout(), "{experiment}/plots/{name}.svg")?;
        }
    }
    Ok(())
}

fn bench(args: &Args) -> Result<()> {
    let stage = Stage::new(args.runs)?;
    let mut tables = Vec::new();
    for (name, steps) in BENCHES {
        if !args.names(name) {
            continue;
        }
        for step in *steps {
            let measured = step(&stage).with_context(|| format!("cannot measure {name}"))?;
            for table in measured {
                if !args.json {
                    writeln!(stdout(), "{table}")?;
                }
                tables.push(table.to_json(name));
            }
        }
    }
    if args.json {
        writeln!(stdout(), "{}", serde_json::to_string_pretty(&tables)?)?;
    }
    Ok(())
}
