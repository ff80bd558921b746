//! The terminal sessions of the README, played and compared.

use anyhow::Result;
use secured::Stage;
use testkit::{Lesson, Scene};

#[test]
fn the_readme_is_true() -> Result<()> {
    let start = |scene: &Scene| secured::start(Stage::of(scene.first_command())?);
    Lesson::read(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"))?.check_on(start)
}
