//! The terminal sessions of the README, played and compared.

use anyhow::Result;
use testkit::{Cluster, Lesson};

#[test]
fn the_readme_is_true() -> Result<()> {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    Lesson::read(readme)?.check_on_several(|_| Cluster::with_network(3, |_, options| options))
}
