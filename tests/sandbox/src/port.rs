//! Loopback ports that stay ours while a server is down.
//!
//! The kernel hands out client ports from its ephemeral range. A server port inside that range can be taken by
//! any outgoing connection while the server is killed, and worse: a client that retries a dead port inside the
//! range may be given that very port as its own, and so connects to itself. So ports are taken from below the
//! range, and a lock file per port keeps other sandboxes away for as long as the server exists.

use std::{
    collections::hash_map::RandomState,
    fs::{self, File},
    hash::BuildHasher,
    io,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    path::Path,
};

use crate::error::{IoContext, Result};

/// Tries before giving up; each is one bind.
const ATTEMPTS_MAX: u32 = 1000;

/// A port that no other sandbox of this user takes while this value lives.
#[derive(Debug)]
pub(crate) struct ReservedPort {
    pub(crate) number: u16,
    /// Held for its lock, which the kernel releases when the process dies.
    _lock: File,
}

impl ReservedPort {
    /// Takes a port that is free now. Another program may still bind it before the server does: the caller
    /// retries then.
    pub(crate) fn take(run_dir: &Path) -> Result<ReservedPort> {
        let dir = run_dir.join("ports");
        fs::create_dir_all(&dir).context(|| format!("create {}", dir.display()))?;
        let range = server_ports();
        for attempt in 0..ATTEMPTS_MAX {
            let number = random_in(&range, attempt);
            if let Some(port) = try_port(&dir, number)? {
                return Ok(port);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, format!("no free port in {range:?}")))
            .context(|| "find a free loopback port".into())
    }
}

fn try_port(dir: &Path, number: u16) -> Result<Option<ReservedPort>> {
    let path = dir.join(number.to_string());
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .context(|| format!("open {}", path.display()))?;
    if lock.try_lock().is_err() {
        return Ok(None);
    }
    match TcpListener::bind((Ipv4Addr::LOCALHOST, number)) {
        Ok(_) => Ok(Some(ReservedPort { number, _lock: lock })),
        Err(_) => Ok(None),
    }
}

/// The ports just below the ephemeral range, or above it where it starts too low.
fn server_ports() -> Range<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = text.split_whitespace().map(|word| word.parse::<u16>().ok());
    let low = bounds.next().flatten().unwrap_or(32768);
    let high = bounds.next().flatten().unwrap_or(60999);
    outside_of(low, high)
}

fn outside_of(low: u16, high: u16) -> Range<u16> {
    const WANTED: u16 = 12_000;
    const LOWEST: u16 = 10_000;
    if low >= LOWEST + 1_000 {
        low.saturating_sub(WANTED).max(LOWEST)..low
    } else if high <= 64_000 {
        high + 1..u16::MAX
    } else {
        // The whole range is ephemeral: better a port with a risk than none.
        LOWEST..u16::MAX
    }
}

fn random_in(range: &Range<u16>, attempt: u32) -> u16 {
    // RandomState is seeded by the system; one multiply-free hash is random enough to spread processes out.
    let hash = RandomState::new().hash_one(attempt);
    let span = u64::from(range.end - range.start);
    range.start + u16::try_from(hash % span).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_stay_out_of_the_ephemeral_range() {
        assert_eq!(outside_of(32768, 60999), 20768..32768);
        assert_eq!(outside_of(15000, 65535), 10000..15000);
        assert_eq!(outside_of(1024, 50000), 50001..65535);
        assert!(!outside_of(1024, 65535).is_empty());
    }

    #[test]
    fn a_port_is_given_out_once() {
        let dir = tempfile::tempdir().unwrap();
        let port = ReservedPort::take(dir.path()).unwrap();
        assert!(try_port(&dir.path().join("ports"), port.number).unwrap().is_none(), "taken twice");
        let number = port.number;
        drop(port);
        assert!(try_port(&dir.path().join("ports"), number).unwrap().is_some(), "not given back");
    }

    #[test]
    fn a_port_that_another_program_listens_on_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let number = listener.local_addr().unwrap().port();
        assert!(try_port(dir.path(), number).unwrap().is_none());
    }
}
