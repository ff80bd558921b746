//! The packages of the workspace, as cargo sees them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

/// The root of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The workspace's own packages.
pub fn packages() -> Result<Vec<Value>> {
    let mut metadata = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    metadata.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let output = metadata.current_dir(root()).output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    Ok(metadata["packages"].as_array().context("no packages")?.clone())
}

/// The name of a package, a dependency or a target.
pub fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

/// The dependencies of a package.
pub fn dependencies(package: &Value) -> impl Iterator<Item = &Value> {
    package["dependencies"].as_array().into_iter().flatten()
}

/// Whether a package is one of the lessons.
pub fn is_experiment(package: &Value) -> bool {
    !["bench", "cluster", "common", "course", "edge", "live", "prove", "secure", "testkit", "xtask"]
        .contains(&name(package))
}
