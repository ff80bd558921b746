//! The experiments of this workspace, and how to call cargo.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The root of the workspace.
pub fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// The experiments, in the order in which the README's table lists them. A folder is one when the
/// README links its lesson.
pub fn experiments() -> Result<Vec<String>> {
    let readme = fs::read_to_string(root().join("README.md")).context("cannot read README.md")?;
    let mut experiments = Vec::new();
    for link in readme.split("](").skip(1) {
        let Some((target, _)) = link.split_once(')') else {
            continue;
        };
        let Some(name) = target.strip_suffix("/README.md") else {
            continue;
        };
        if root().join(name).join("Cargo.toml").is_file() && !experiments.contains(&name.to_owned())
        {
            experiments.push(name.to_owned());
        }
    }
    Ok(experiments)
}

/// The cargo that runs this program.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// Whether the lesson of an experiment runs no programs but its own. The others are lessons on the
/// programs of all.
fn is_independent(experiment: &str) -> Result<bool> {
    let readme = fs::read_to_string(root().join(experiment).join("README.md"))?;
    let end = |c: char| c != '-' && !c.is_ascii_alphanumeric();
    let mut packages = readme.split("cargo run -p ").skip(1).map(|rest| rest.split(end).next());
    Ok(packages.all(|package| package == Some(experiment)))
}

/// The experiments whose lessons run no programs but their own.
fn independent() -> Result<Vec<String>> {
    let mut independent = Vec::new();
    for experiment in experiments()? {
        if is_independent(&experiment)? {
            independent.push(experiment);
        }
    }
    Ok(independent)
}

/// Builds the programs that the lessons of these experiments run, and returns the path of each by its
/// name; the name of an example begins with `examples/`.
pub fn build(experiments: &[String]) -> Result<HashMap<String, PathBuf>> {
    let mut build = cargo();
    build.args(["build", "--bins", "--examples", "--message-format=json-render-diagnostics"]);
    let independent = independent()?;
    let packages = if experiments.iter().all(|experiment| independent.contains(experiment)) {
        experiments.to_vec()
    } else {
        self::experiments()?
    };
    for package in packages {
        build.args(["--package", &package]);
    }
    executables(&mut build)?.context("the build failed")
}

/// Runs `cargo build --message-format=json-render-diagnostics …`, and returns the path of each
/// program by its name; none if the build fails. The compiler's errors are shown.
pub fn executables(build: &mut Command) -> Result<Option<HashMap<String, PathBuf>>> {
    let output = build.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !output.status.success() {
        return Ok(None);
    }
    let mut programs = HashMap::new();
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let message: Value = serde_json::from_slice(line)?;
        if let (Some(name), Some(path)) =
            (message["target"]["name"].as_str(), message["executable"].as_str())
        {
            let is_example = message["target"]["kind"][0] == "example";
            let folder = if is_example { "examples/" } else { "" };
            programs.insert(format!("{folder}{name}"), PathBuf::from(path));
        }
    }
    Ok(Some(programs))
}

/// Runs the benchmarks.
pub fn bench(args: &[String]) -> Result<()> {
    let mut build = cargo();
    // Of the whole workspace, as the programs that it measures: they share their libraries.
    build.args(["build", "--release", "--workspace", "--bin", "bench"]);
    build.arg("--message-format=json-render-diagnostics");
    let programs = executables(&mut build)?.context("the build failed")?;
    let mut bench = Command::new(programs.get("bench").context("there is no benchmark")?);
    ensure!(bench.args(args).status()?.success(), "the benchmark failed");
    Ok(())
}

/// Runs the tests that play READMEs, and lets them rewrite what differs.
pub fn bless(named: &[String]) -> Result<()> {
    let chosen = chosen(named)?;
    // `cargo test --test` builds the programs beside the test, but not the examples.
    build(&chosen)?;
    let mut test = cargo();
    test.args(["test", "--quiet", "--no-fail-fast"]).env("BLESS", "1");
    for name in &chosen {
        test.args(["--package", name]);
    }
    test.args(["--test", "tests", "readme::"]);
    ensure!(test.status().context("cannot run cargo")?.success(), "a README cannot be played");
    Ok(())
}

/// Returns file and line of a heading, `rpc/README.md:120`, for its link, `rpc/README.md#guarantees`.
pub fn line_of(link: &str) -> Result<String> {
    let (file, anchor) = link.split_once('#').context("no heading")?;
    let text = fs::read_to_string(root().join(file)).with_context(|| format!("no {file}"))?;
    let heading = |line: &str| line.starts_with('#') && anchor_of(line) == anchor;
    let before = text.lines().position(heading).with_context(|| format!("nothing at {link}"))?;
    Ok(format!("{file}:{}", before + 1))
}

/// The anchor that a heading gets.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Checks that an experiment can become the start of a service: that it stands alone.
pub fn ensure_independent(experiment: &str) -> Result<()> {
    let all = independent()?;
    if !all.iter().any(|name| name == experiment) {
        bail!("there is no experiment {experiment:?}; there are: {}", all.join(", "));
    }
    Ok(())
}

/// The named experiments, or all if none is named, in the README's order.
pub fn chosen(named: &[String]) -> Result<Vec<String>> {
    let mut all = experiments()?;
    if let Some(unknown) = named.iter().find(|name| !all.contains(name)) {
        bail!("there is no experiment {unknown:?}; there are: {}", all.join(", "));
    }
    all.retain(|name| named.is_empty() || named.contains(name));
    Ok(all)
}
