//! The keys of `cargo xtask up --edge`.

use anyhow::{Context as _, Result};
use edged::{Config, Edge};
use testkit::Topology;

#[test]
fn each_key_does_what_it_says() -> Result<()> {
    let mut edge = Edge::start(&Config::default(), |_, options| options)?;
    for (key, done) in [
        ("w", "the line is slow"),
        ("x", "the line is cut"),
        ("h", "the line is healed"),
        ("b", "the line has lost its connections"),
        ("p2", "leaf is paused"),
        ("c2", "leaf continues"),
        ("k2", "leaf was killed"),
        ("r2", "leaf was started"),
        ("s1", "hub was stopped"),
        ("r1", "hub was started"),
    ] {
        assert_eq!(edge.press(key).context(key)?, done);
    }
    edge.wait_until_connected()?;
    for key in ["k3", "y1", "k", ""] {
        assert!(edge.press(key).is_err(), "{key}");
    }
    Ok(())
}
