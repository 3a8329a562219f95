//! The network of a run: every connection between two nodes goes through a proxy of the harness's, a [`Link`], which
//! can lose, delay and break it in either direction.
//!
//! A proxy in the kernel's place differs from a broken wire in one thing: a new connection through a cut link is
//! established, and then nothing comes; through a broken wire it is not even established. Where the run has a network
//! namespace of its own, a [`Firewall`] sees to that too.

mod condition;
mod firewall;
mod link;

use std::fmt;
use std::sync::Arc;

use anyhow::Result;

pub use condition::{Condition, Direction, End};
pub use firewall::Firewall;
pub use link::Link;

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// All clients, in the harness's own process.
    Clients,
    /// The coordinator.
    Coordinator,
    /// A participant, from 0.
    Participant(usize),
    /// The database server of the participant of that number.
    Database(usize),
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Clients => f.write_str("clients"),
            Node::Coordinator => f.write_str("coordinator"),
            Node::Participant(number) => write!(f, "participant-{number}"),
            Node::Database(number) => write!(f, "database-{number}"),
        }
    }
}

/// All links.
#[derive(Debug, Default)]
pub struct Network {
    links: Vec<Arc<Link>>,
    firewall: Option<Arc<Firewall>>,
}

impl Network {
    /// A network without links yet. `firewall`: of the namespace that it is in, if it has one of its own.
    pub fn new(firewall: Option<Firewall>) -> Network {
        Network { links: Vec::new(), firewall: firewall.map(Arc::new) }
    }

    /// Makes a link from one node to the port at which another listens.
    ///
    /// # Errors
    /// When there is no port for the proxy.
    pub fn connect(&mut self, from: Node, to: Node, port: u16) -> Result<Arc<Link>> {
        let link = Arc::new(Link::open(from, to, port, self.firewall.clone())?);
        self.links.push(Arc::clone(&link));
        Ok(link)
    }

    /// Whether everything that links were told has been done.
    ///
    /// # Errors
    /// What the kernel's firewall would not do.
    pub fn verify(&self) -> Result<()> {
        self.firewall.as_ref().and_then(|firewall| firewall.failure()).map_or(Ok(()), Err)
    }

    /// All links.
    pub fn links(&self) -> &[Arc<Link>] {
        &self.links
    }

    /// The links that begin or end at a node.
    pub fn of(&self, node: Node) -> Vec<Arc<Link>> {
        self.links.iter().filter(|link| link.from() == node || link.to() == node).cloned().collect()
    }
}
