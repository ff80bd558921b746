//! The rules that ARCHITECTURE.md states.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::metadata::{dependencies, is_experiment, name, packages};

fn manifest(package: &Value) -> Result<String> {
    let path = package["manifest_path"].as_str().context("no manifest")?;
    Ok(fs::read_to_string(path)?)
}

#[test]
fn versions_are_in_step() -> Result<()> {
    let mut versions: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for package in packages()? {
        for key in ["edition", "rust_version", "license"] {
            let value = package[key].to_string();
            versions.entry(key.into()).or_default().insert(value, name(&package).into());
        }
        for dependency in dependencies(&package).filter(|dependency| dependency["path"].is_null()) {
            let (library, version) = (name(dependency), dependency["req"].to_string());
            versions.entry(library.into()).or_default().insert(version, name(&package).into());
        }
    }
    for (what, versions) in versions {
        ensure!(versions.len() == 1, "{what} differs: {versions:?}");
    }
    Ok(())
}

#[test]
fn arrows_point_one_way() -> Result<()> {
    for package in packages()? {
        let may_use: &[&str] = match name(&package) {
            "testkit" => &[],
            "common" | "prove" | "secure" | "live" => &["testkit"],
            "bench" => &["testkit", "edge"],
            "course" | "cluster" => &["testkit", "prove"],
            "xtask" => &["testkit", "prove", "course", "cluster", "edge", "secure", "live"],
            _ => &["common", "testkit", "prove"],
        };
        for dependency in dependencies(&package).filter(|dependency| !dependency["path"].is_null())
        {
            let used = name(dependency);
            ensure!(
                may_use.contains(&used) || name(&package) == "bench" && used == "common",
                "{} must not use {used}",
                name(&package)
            );
            // A program must not depend on what is for tests.
            let for_tests = dependency["kind"] == "dev";
            let ships = ["common", "course"].contains(&name(&package)) || is_experiment(&package);
            ensure!(used == "common" || for_tests || !ships, "{} ships {used}", name(&package));
        }
    }
    Ok(())
}

#[test]
fn every_crate_can_be_lifted_out_of_the_workspace() -> Result<()> {
    for package in packages()? {
        let manifest = manifest(&package)?;
        let inherits =
            manifest.lines().any(|line| line.replace(' ', "").contains("workspace=true"));
        ensure!(!inherits, "{} inherits from the workspace", name(&package));
    }
    Ok(())
}

#[test]
fn every_dependency_has_its_reason() -> Result<()> {
    for package in packages()? {
        let manifest = manifest(&package)?;
        let mut section = "";
        let mut has_reason = false;
        for line in manifest.lines() {
            match line.chars().next() {
                Some('[') => section = line,
                // One reason may cover the lines that follow it.
                Some('#') => has_reason = true,
                None => has_reason = false,
                Some(_) if section.ends_with("dependencies]") => {
                    ensure!(has_reason, "{}: no reason above `{line}`", name(&package));
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

#[test]
fn every_crate_is_held_to_the_same_lints() -> Result<()> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for package in packages()? {
        let manifest = manifest(&package)?;
        let (_, lints) = manifest.split_once("[lints.rust]").context("no lints")?;
        // An experiment prints into a pipe that may close. These print for a person.
        let talks = ["course", "testkit", "xtask"].contains(&name(&package));
        let is_about_printing = |line: &&str| line.contains("print");
        let prints = lints.lines().filter(is_about_printing).count();
        ensure!(
            prints == if talks { 0 } else { 3 },
            "{}: {prints} lints on printing",
            name(&package)
        );
        let rest: Vec<&str> = lints.lines().filter(|line| !is_about_printing(line)).collect();
        all.insert(rest.join("\n"), name(&package).into());
    }
    ensure!(all.len() == 1, "lints differ: {all:?}");
    Ok(())
}
