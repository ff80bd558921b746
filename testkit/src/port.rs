//! Ports for the servers of tests.

use std::net::{Ipv4Addr, TcpStream, UdpSocket};

use anyhow::{Result, bail};

/// A free TCP port of 127.0.0.1. While this value lives, no other `Port` on this machine has the
/// same number, even if no server listens on it, between a kill and a restart.
///
/// It lies below the range from which the system takes the ports of outgoing connections.
/// Otherwise a client that tries to reconnect to a server that is away could be given the server's
/// port, connect to itself, and keep the server from starting again.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// The claim: only one process can bind the UDP port of the same number, and the system
    /// releases it when that process ends, even if it is killed.
    _claim: Option<UdpSocket>,
}

impl Port {
    /// Claims a free port.
    ///
    /// # Errors
    ///
    /// If none is free.
    pub fn claim() -> Result<Self> {
        // Linux draws from 32768 on, macOS from 49152 on.
        const RANGE: std::ops::Range<u16> = 10_000..32_000;
        for _ in 0..1_000 {
            let number = rand::random_range(RANGE);
            let Ok(claim) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else {
                continue;
            };
            // Not tried by listening: a process that another thread forks at that moment would
            // inherit the listener, and keep the port for a while.
            if TcpStream::connect((Ipv4Addr::LOCALHOST, number)).is_err() {
                return Ok(Self { number, _claim: Some(claim) });
            }
        }
        bail!("no free port found between {} and {}", RANGE.start, RANGE.end)
    }

    /// A port that was chosen by others.
    pub(crate) fn fixed(number: u16) -> Self {
        Self { number, _claim: None }
    }

    /// The port's number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_claimed_port_is_free_for_tcp_and_taken_for_other_claims() -> Result<()> {
        let port = Port::claim()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port.number()))?;
        assert!(UdpSocket::bind((Ipv4Addr::LOCALHOST, port.number())).is_err());
        Ok(())
    }
}
