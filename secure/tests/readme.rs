//! The terminal sessions of the README, played and compared.

use anyhow::{Context, Result};
use secured::Stage;
use testkit::{Lesson, Scene};

#[test]
fn the_readme_is_true() -> Result<()> {
    let start = |scene: &Scene| {
        let first = scene.terminals.first().and_then(|terminal| terminal.steps.first());
        secured::start(Stage::of(&first.context("no command")?.command))
    };
    Lesson::read(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"))?.check_on(start)
}
