//! The terminal sessions of the README, played and compared.

use anyhow::Result;
use edged::{Config, Edge, streams};
use testkit::Lesson;

#[test]
fn the_readme_is_true() -> Result<()> {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    Lesson::read(readme)?.check_on_several(|_| {
        let edge = Edge::start(&Config::default(), |_, options| options)?;
        streams::lay_blocking(&edge)?;
        Ok(edge)
    })
}
