//! Loopback ports for services that are killed and come back at the same address.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Result, bail};

/// Below the range from which systems take the ports of outgoing connections. Inside it, a client that retries
/// a port whose service is down may be given that very port as its own, and connect to itself.
const PORTS: std::ops::Range<u16> = 12_000..30_000;
/// Each is one bind.
const ATTEMPTS_MAX: usize = 1_000;

/// Addresses on which nobody listens now. Another program may still be quicker than the service that is to
/// have one; then that service ends with a clear message.
///
/// # Errors
/// When none was found.
pub(crate) fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut held = Vec::with_capacity(N);
    for _ in 0..ATTEMPTS_MAX {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, rand::random_range(PORTS)));
        if let Ok(listener) = TcpListener::bind(address) {
            held.push((address, listener));
        }
        if held.len() == N {
            return Ok(std::array::from_fn(|index| held[index].0));
        }
    }
    bail!("no free loopback port was found between {} and {}", PORTS.start, PORTS.end)
}
