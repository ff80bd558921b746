//! Servers and networks that keys break.

use std::fmt;

use anyhow::{Context, Result, bail};

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

/// Does what a key says with one of the servers: `k2` kills the second one. Returns what was done.
///
/// # Errors
///
/// If there is no such key or server, or it cannot be done.
pub fn press_for_server(servers: &mut [Server], key: &str) -> Result<String> {
    let (action, number) = key.split_at(key.len().min(1));
    let at = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    let server = at.and_then(|at| servers.get_mut(at));
    let server = server.with_context(|| format!("no server {number:?}"))?;
    let done = match action {
        "k" => server.kill().map(|()| "was killed"),
        // A paused one would not stop.
        "s" => server.resume().and_then(|()| server.stop()).map(|()| "was stopped"),
        "l" => server.lame_duck().map(|()| "leaves"),
        "r" => server.restart().map(|()| "was started"),
        "p" => server.suspend().map(|()| "is paused"),
        "c" => server.resume().map(|()| "continues"),
        _ => bail!("no key {action:?}"),
    };
    let name = server.name();
    Ok(format!("{name} {}", done.with_context(|| name.to_owned())?))
}
