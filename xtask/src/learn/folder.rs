//! The learner's folder: the programs as the learner has edited them, and the progress.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use course::{EXERCISES, Exercise};
use serde_json::{Value, json};

use crate::workspace::{cargo, executables, root};

/// The learner's folder. It is made when it is needed, and git takes no notice of it.
pub struct Folder {
    path: PathBuf,
    /// By exercise: `{"solved": true, "hints": 2}`.
    progress: Value,
}

impl Folder {
    /// Opens the folder, which may not be there yet.
    pub fn open(path: PathBuf) -> Result<Self> {
        let file = path.join("progress.json");
        let progress = match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged; delete it", file.display()))?,
            Err(_) => json!({}),
        };
        Ok(Self { path, progress })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the learner edits an exercise, as it is shown.
    pub fn shown(&self, exercise: &Exercise) -> String {
        let file = self.path.join(exercise.file());
        file.strip_prefix(root()).unwrap_or(&file).display().to_string()
    }

    /// The first exercise that is not solved.
    pub fn next(&self) -> Option<&'static Exercise> {
        EXERCISES.iter().find(|exercise| !self.is_solved(exercise))
    }

    /// Whether the learner has solved it.
    pub fn is_solved(&self, exercise: &Exercise) -> bool {
        self.progress[exercise.name]["solved"] == true
    }

    /// How many hints the learner has seen.
    pub fn hints(&self, exercise: &Exercise) -> usize {
        let hints = self.progress[exercise.name]["hints"].as_u64().unwrap_or(0);
        usize::try_from(hints).unwrap_or(0).min(exercise.hints.len())
    }

    /// Notes that it is solved.
    pub fn solved(&mut self, exercise: &Exercise) -> Result<()> {
        self.note(exercise, "solved", json!(true))
    }

    /// Notes that one more hint was seen.
    pub fn hinted(&mut self, exercise: &Exercise) -> Result<()> {
        let hints = self.hints(exercise) + 1;
        self.note(exercise, "hints", json!(hints))
    }

    fn note(&mut self, exercise: &Exercise, what: &str, value: Value) -> Result<()> {
        self.progress[exercise.name][what] = value;
        self.write("progress.json", &format!("{:#}\n", self.progress))
    }

    /// What the learner has made of it so far.
    pub fn text(&self, exercise: &Exercise) -> Result<String> {
        let file = self.path.join(exercise.file());
        if !file.exists() {
            self.write(&exercise.file(), exercise.source)?;
        }
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    }

    /// Puts the program back as it was, not solved and without hints.
    pub fn reset(&mut self, exercise: &Exercise) -> Result<()> {
        self.write(&exercise.file(), exercise.source)?;
        self.note(exercise, "solved", json!(false))?;
        self.note(exercise, "hints", json!(0))
    }

    /// Builds it. Returns the program, or none if it does not compile: the compiler says why.
    pub fn build(&self, exercise: &Exercise) -> Result<Option<PathBuf>> {
        self.text(exercise)?;
        let manifest = self.path.join("Cargo.toml");
        let is_first = !manifest.exists();
        self.write("Cargo.toml", &self.manifest())?;
        let mut build = cargo();
        build.args(["build", "--message-format=json-render-diagnostics", "--manifest-path"]);
        build.arg(&manifest).args(["--bin", exercise.name]);
        if is_first {
            // The versions of the workspace: what this program was built with need not be built anew.
            fs::copy(root().join("Cargo.lock"), self.path.join("Cargo.lock"))?;
        } else {
            build.arg("--quiet");
        }
        if std::env::var_os("CARGO_TARGET_DIR").is_none() {
            build.arg("--target-dir").arg(root().join("target"));
        }
        let programs = executables(&mut build)?;
        Ok(programs.and_then(|mut programs| programs.remove(exercise.name)))
    }

    /// The manifest of the exercises that the learner has begun: a workspace of its own, so that
    /// `cargo test` of ours does not compile programs that are being edited.
    fn manifest(&self) -> String {
        let ours = include_str!("../../../course/Cargo.toml");
        let (_, dependencies) = ours.split_once("[dependencies]").unwrap_or_default();
        let (dependencies, _) = dependencies.split_once("\n[").unwrap_or_default();
        let mut manifest = format!(
            "# Written by `cargo xtask learn`.\n\
             [package]\nname = \"exercises\"\nedition = \"2024\"\npublish = false\n\n\
             [workspace]\n\n[profile.dev]\ndebug = \"line-tables-only\"\n\n\
             [dependencies]{dependencies}"
        );
        for exercise in EXERCISES {
            if self.path.join(exercise.file()).exists() {
                let (name, file) = (exercise.name, exercise.file());
                let _ = write!(manifest, "\n[[bin]]\nname = {name:?}\npath = {file:?}\n");
            }
        }
        manifest
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let file = self.path.join(name);
        // Not if nothing changes: cargo builds anew what is written anew.
        if fs::read_to_string(&file).is_ok_and(|there| there == text) {
            return Ok(());
        }
        fs::create_dir_all(&self.path)?;
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}
