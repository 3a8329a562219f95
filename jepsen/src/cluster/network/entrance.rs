//! An address that several callers share: whose link a connection takes is found out by the process that has made it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use concord_sandbox::Address;
use procfs::process::{FDTarget, Process, all_processes};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet, spawn_blocking};

use super::link::reset;
use super::{Caller, Link};

/// An open entrance. Dropped, it closes all of its connections.
#[derive(Debug)]
pub struct Entrance {
    address: Address,
    accepting: AbortHandle,
}

type Links = Vec<(Caller, Arc<Link>)>;

impl Entrance {
    /// Opens one for these callers, each with its link.
    pub(super) fn open(links: Links) -> Result<Entrance> {
        let address = Address::reserve()?;
        let listener = std::net::TcpListener::bind(address.socket())?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let accepting = tokio::spawn(accept(listener, Arc::new(links))).abort_handle();
        Ok(Entrance { address, accepting })
    }

    /// Where it is: `http://127.0.0.1:PORT`.
    pub(super) fn url(&self) -> String {
        self.address.url()
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts connections, for ever. They end with this task.
async fn accept(listener: TcpListener, links: Arc<Links>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(admit(stream, Arc::clone(&links)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn admit(stream: TcpStream, links: Arc<Links>) {
    let (Ok(from), Ok(to)) = (stream.peer_addr(), stream.local_addr()) else { return };
    let callers: Vec<Caller> = links.iter().map(|(caller, _)| caller.clone()).collect();
    let found = spawn_blocking(move || caller_of(from, to, &callers)).await;
    match found {
        Ok(Ok(Some(place))) => links[place].1.carry(stream).await,
        // It is dead by now: a connection of nobody's.
        Ok(Ok(None)) => reset(stream),
        Ok(Err(error)) => {
            tracing::error!(%error, "cannot find out who calls");
            reset(stream);
        }
        Err(_) => reset(stream),
    }
}

/// The place of the one that has made the connection between these two addresses.
fn caller_of(from: SocketAddr, to: SocketAddr, callers: &[Caller]) -> Result<Option<usize>> {
    let sockets = procfs::net::tcp().context("list connections")?;
    let socket = sockets.iter().find(|one| one.local_address == from && one.remote_address == to);
    let Some(inode) = socket.map(|one| one.inode) else { return Ok(None) };
    // Processes come and go while they are looked at.
    for process in all_processes().context("list processes")?.flatten() {
        let line = process.cmdline().unwrap_or_default();
        let place = callers.iter().position(|caller| line.last() == Some(&caller.last_argument));
        if place.is_some() && has(&process, inode) {
            return Ok(place);
        }
    }
    Ok(None)
}

fn has(process: &Process, inode: u64) -> bool {
    let Ok(descriptors) = process.fd() else { return false };
    descriptors.flatten().any(|one| matches!(one.target, FDTarget::Socket(socket) if socket == inode))
}
