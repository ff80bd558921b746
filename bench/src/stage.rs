//! What all measurements need: release builds, turns, progress.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{IsTerminal, Write, stderr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::{Program, Server};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::plot::{Line, Point};

/// The first argument of a process that is a part of a measurement.
pub const PART: &str = "part";

/// How long one measurement may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where measurements take place.
#[derive(Debug)]
pub struct Stage {
    /// How often each row is measured.
    pub runs: u32,
    /// This binary; those of the experiments are beside it.
    own: PathBuf,
    built: RefCell<BTreeSet<String>>,
}

impl Stage {
    /// # Errors
    ///
    /// Where the system does not say where this binary is.
    pub fn new(runs: u32) -> Result<Self> {
        Ok(Self {
            runs,
            own: std::env::current_exe().context("cannot find my own binary")?,
            built: RefCell::default(),
        })
    }

    /// A private server without JetStream.
    ///
    /// # Errors
    ///
    /// Where it does not start.
    pub fn server() -> Result<Server> {
        Ok(Server::options().no_jetstream().start()?.quiet())
    }

    /// The program `bin` of an experiment, as a release build.
    ///
    /// # Errors
    ///
    /// If it does not build.
    pub fn program(&self, bin: &str) -> Result<PathBuf> {
        self.build("--bin", bin)?;
        Ok(self.own.with_file_name(bin))
    }

    /// The example `name` of an experiment, a first version, as a release build.
    ///
    /// # Errors
    ///
    /// If it does not build.
    pub fn example(&self, name: &str) -> Result<PathBuf> {
        self.build("--example", name)?;
        Ok(self.own.with_file_name("examples").join(name))
    }

    fn build(&self, kind: &str, name: &str) -> Result<()> {
        if self.built.borrow_mut().insert(name.to_owned()) {
            Self::progress(&format!("building {name}"));
            let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
                // Always the workspace as a whole, whose programs share their libraries.
                .args(["build", "--quiet", "--release", "--workspace", kind, name])
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .context("cannot run cargo")?;
            ensure!(built.success(), "{name} does not build");
        }
        Ok(())
    }

    /// A part of a measurement, as a process of its own: this binary with other arguments.
    #[must_use]
    pub fn part(&self, server: &Server, args: &[&str]) -> Command {
        let mut command = server.command(&self.own);
        command.arg(PART).args(args);
        command
    }

    /// Calls `measure` for each of `names`, in turns: a slow moment of the machine hits all of
    /// them. It returns one figure for each column of the table.
    ///
    /// # Errors
    ///
    /// The first of `measure`.
    pub fn in_turns(
        &self,
        title: &str,
        names: &[&str],
        mut measure: impl FnMut(usize) -> Result<Vec<f64>>,
    ) -> Result<Vec<Vec<Vec<f64>>>> {
        let mut samples = vec![Vec::new(); names.len()];
        for run in 1..=self.runs {
            for (at, name) in names.iter().enumerate() {
                Self::progress(&format!("{title}: {name}, {run} of {}", self.runs));
                samples[at].push(measure(at).with_context(|| format!("{title}: {name}"))?);
            }
        }
        Self::progress("");
        Ok(samples)
    }

    /// Measures each of `lines` at each of `xs`, in turns. It returns the lines of a panel for each
    /// figure that `measure` returns.
    ///
    /// # Errors
    ///
    /// The first of `measure`.
    pub fn sweep(
        &self,
        title: &str,
        lines: &[&str],
        xs: &[u32],
        mut measure: impl FnMut(usize, u32) -> Result<Vec<f64>>,
    ) -> Result<Vec<Vec<Line>>> {
        let names: Vec<String> =
            lines.iter().flat_map(|line| xs.iter().map(move |x| format!("{line}, {x}"))).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let samples =
            self.in_turns(title, &names, |at| measure(at / xs.len(), xs[at % xs.len()]))?;
        let line = |(at, name): (usize, &&str), figure: usize| {
            let runs = &samples[at * xs.len()..][..xs.len()];
            let points = xs.iter().zip(runs).map(|(&x, runs)| {
                Point::new(x.into(), runs.iter().map(|figures| figures[figure]).collect())
            });
            Line { name: (*name).to_owned(), points: points.collect() }
        };
        let figures = 0..samples[0][0].len();
        Ok(figures
            .map(|figure| lines.iter().enumerate().map(|at| line(at, figure)).collect())
            .collect())
    }

    /// Says on stderr what is going on: on a terminal in one line that is written again and again.
    pub fn progress(text: &str) {
        let mut stderr = stderr().lock();
        // Nobody is left to tell when stderr is closed.
        let _ = if stderr.is_terminal() {
            write!(stderr, "\r\x1b[2K{text}").and_then(|()| stderr.flush())
        } else if text.is_empty() {
            Ok(())
        } else {
            writeln!(stderr, "{text}")
        };
    }
}

/// Runs a part of a measurement on the runtime that `#[tokio::main]` gives to most programs.
///
/// # Errors
///
/// Those of the part.
pub fn run(part: impl Future<Output = Result<()>>) -> Result<()> {
    Runtime::new()?.block_on(part)
}

/// Resolves when the process is told to stop (SIGTERM).
///
/// # Errors
///
/// If the signal cannot be listened for.
pub async fn terminated() -> Result<()> {
    signal(SignalKind::terminate())?.recv().await;
    Ok(())
}

/// Runs a program to its end, and returns the last line that it printed.
///
/// # Errors
///
/// Where it fails or prints nothing.
pub fn last_line(command: &mut Command) -> Result<String> {
    let ended = Program::spawn(command)?.quiet().timeout(PATIENCE).wait()?;
    ensure!(ended.success(), "{command:?} failed: {}", ended.stderr.join("; "));
    ended.stdout.last().cloned().context("nothing was printed")
}

/// The number before `unit` in a line such as `1000 requests in 0.1 s (9000/s), p50 80 µs`; with
/// `before`, the one after that word.
///
/// # Errors
///
/// Where there is none.
pub fn figure(line: &str, before: &str, unit: &str) -> Result<f64> {
    let from = line.rfind(before).map(|at| at + before.len());
    let text = from.and_then(|from| line[from..].split(unit).next());
    text.and_then(|text| text.trim().parse().ok())
        .with_context(|| format!("no number between {before:?} and {unit:?} in {line:?}"))
}
