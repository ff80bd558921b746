//! The terminal sessions of the README, played and compared.

use anyhow::Result;
use testkit::Lesson;

#[test]
fn the_readme_is_true() -> Result<()> {
    Lesson::read(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"))?.check()
}
