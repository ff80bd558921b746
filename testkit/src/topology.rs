//! Servers and networks that keys break.

use std::fmt;

use anyhow::Result;

use crate::server::{Ports, Server};

/// Several servers and the networks between them. A key breaks or mends a part of them: in the
/// terminal of `cargo xtask up`, and in a README's scene.
pub trait Topology: fmt::Debug {
    /// The servers, those that are down included.
    fn servers(&self) -> &[Server];

    /// The ports that they have in the terminal of `cargo xtask up`.
    fn usual_ports(&self) -> &'static [Ports];

    /// The keys, and what each one does. A key whose name ends with `N` is followed by a number
    /// from 1: that of a server.
    fn keys(&self) -> &'static [(&'static str, &'static str)];

    /// Does what a key says, `k2` for instance, and returns what was done.
    ///
    /// # Errors
    ///
    /// If there is no such key, or it cannot be done: a server that is down cannot be killed.
    fn press(&mut self, key: &str) -> Result<String>;

    /// What clients connect to: the URLs of all servers to which they may, separated by commas.
    fn url(&self) -> String;
}
