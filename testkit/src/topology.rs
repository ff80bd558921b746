//! Servers and networks that keys break.

use std::fmt;

use anyhow::{Context, Result};

use crate::server::{Ports, Server};

/// The keys for one of the servers, and what each one does.
const SERVER_KEYS: [(&str, &str); 6] = [
    ("kN", "kill it (kill -9)"),
    ("sN", "stop it (SIGTERM)"),
    ("lN", "lame duck mode: its clients are sent away one by one, then it ends"),
    ("rN", "start it again"),
    ("pN", "pause it (SIGSTOP)"),
    ("cN", "let it continue (SIGCONT)"),
];

/// Several servers and the networks between them. A key breaks or mends a part of them: in the
/// terminal of `cargo xtask up`, and in a README's scene.
pub trait Topology: fmt::Debug {
    /// The servers, those that are down included.
    fn servers(&self) -> &[Server];

    /// The servers, to stop or kill them.
    fn servers_mut(&mut self) -> &mut [Server];

    /// The ports that they have in the terminal of `cargo xtask up`.
    fn usual_ports(&self) -> &'static [Ports];

    /// The keys for the networks, and what each one does. Their names are not those of the keys for
    /// servers.
    fn network_keys(&self) -> &'static [(&'static str, &'static str)];

    /// Does what a key for the networks says, and returns what was done.
    ///
    /// # Errors
    ///
    /// If there is no such key, or it cannot be done.
    fn press_for_network(&mut self, key: &str) -> Result<String>;

    /// What clients connect to: the URLs of all servers to which they may, separated by commas.
    fn url(&self) -> String;

    /// The keys, and what each one does. A key whose name ends with `N` is followed by a number
    /// from 1: that of a server.
    fn keys(&self) -> Vec<(&'static str, &'static str)> {
        SERVER_KEYS.iter().chain(self.network_keys()).copied().collect()
    }

    /// Does what a key says, and returns what was done: `k2` kills the second server.
    ///
    /// # Errors
    ///
    /// If there is no such key or server, or it cannot be done: a server that is down cannot be
    /// killed.
    fn press(&mut self, key: &str) -> Result<String> {
        let (action, number) = key.split_at(key.len().min(1));
        if SERVER_KEYS.iter().all(|(name, _)| name.strip_suffix('N') != Some(action)) {
            return self.press_for_network(key);
        }
        let at = server_at(number, self.servers())?;
        let server = &mut self.servers_mut()[at];
        let done = match action {
            "k" => server.kill().map(|()| "was killed"),
            // A paused one would not stop.
            "s" => server.resume().and_then(|()| server.stop()).map(|()| "was stopped"),
            "l" => server.lame_duck().map(|()| "leaves"),
            "r" => server.restart().map(|()| "was started"),
            "p" => server.suspend().map(|()| "is paused"),
            _ => server.resume().map(|()| "continues"),
        };
        let name = server.name();
        Ok(format!("{name} {}", done.with_context(|| name.to_owned())?))
    }
}

/// The place of the server with this number, which counts from 1.
pub(crate) fn server_at(number: &str, servers: &[Server]) -> Result<usize> {
    let at = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    at.filter(|at| *at < servers.len()).with_context(|| format!("no server {number:?}"))
}
