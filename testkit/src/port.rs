//! Ports that stay ours.

use std::net::{Ipv4Addr, TcpStream, UdpSocket};

use anyhow::{Result, bail};

/// A free TCP port of 127.0.0.1 that no other holder of a `Port` on this machine gets, for as
/// long as this one lives: also while nobody listens on it, between a kill and a restart.
///
/// It lies below the range from which the system draws the ports of outgoing connections.
/// Otherwise a client that tries to reconnect to its own, absent server could be given that very
/// port, connect to itself, and keep the server from coming back.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// The claim: one process alone can bind the UDP port of the same number, and the system
    /// takes it back however that process ends.
    _claim: UdpSocket,
}

impl Port {
    /// Claims a free port.
    ///
    /// # Errors
    ///
    /// Where none is free.
    pub fn claim() -> Result<Self> {
        // Linux draws from 32768 on, macOS from 49152 on.
        const RANGE: std::ops::Range<u16> = 10_000..32_000;
        for _ in 0..1_000 {
            let number = rand::random_range(RANGE);
            let Ok(claim) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else {
                continue;
            };
            // Not tried by listening: a process that another thread forks at that moment would
            // hold on to the port for a while.
            if TcpStream::connect((Ipv4Addr::LOCALHOST, number)).is_err() {
                return Ok(Self { number, _claim: claim });
            }
        }
        bail!("no free port found between {} and {}", RANGE.start, RANGE.end)
    }

    /// Its number.
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
