//! The network of a run: every connection between two nodes goes through a proxy of the harness's, a [`Link`], which
//! can lose, delay and break it in either direction.
//!
//! A proxy in the kernel's place differs from a broken wire in one thing: a new connection through a cut link is
//! established, and then nothing comes; through a broken wire it is not even established. Where the run has a network
//! namespace of its own, a [`Firewall`] sees to that too.
//!
//! A node has one address for all coordinators, because they tell it to each other. Where there are several, an
//! [`Entrance`] stands at that address, finds out who calls, and takes the link of that one. A firewall cannot know the
//! caller: such links are cut by the proxy alone.

mod condition;
mod entrance;
mod firewall;
mod link;

use std::fmt;
use std::sync::Arc;

use anyhow::Result;

pub use condition::{Condition, Direction, End};
pub use entrance::Entrance;
pub use firewall::Firewall;
pub use link::Link;

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// All clients, in the harness's own process.
    Clients,
    /// A coordinator, from 0.
    Coordinator(usize),
    /// A participant, from 0.
    Participant(usize),
    /// The database server of the participant of that number.
    Database(usize),
    /// The database server that holds what coordinators share.
    Store,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Clients => f.write_str("clients"),
            Node::Coordinator(number) => write!(f, "coordinator-{number}"),
            Node::Participant(number) => write!(f, "participant-{number}"),
            Node::Database(number) => write!(f, "database-{number}"),
            Node::Store => f.write_str("store"),
        }
    }
}

/// Who calls, and how its process is known.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The node.
    pub node: Node,
    /// What the command line of its process ends with, and no other's.
    pub last_argument: String,
}

/// All links.
#[derive(Debug, Default)]
pub struct Network {
    links: Vec<Arc<Link>>,
    entrances: Vec<Entrance>,
    firewall: Option<Arc<Firewall>>,
}

impl Network {
    /// A network without links yet. `firewall`: of the namespace that it is in, if it has one of its own.
    pub fn new(firewall: Option<Firewall>) -> Network {
        Network { links: Vec::new(), entrances: Vec::new(), firewall: firewall.map(Arc::new) }
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

    /// Makes links from several callers, one for each, to a node that has the same address for all of them; answers with
    /// that address as a URL.
    ///
    /// # Errors
    /// When there is no port.
    pub fn connect_all(&mut self, callers: &[Caller], to: Node, port: u16) -> Result<String> {
        let connect = |caller: &Caller| self.connect(caller.node, to, port);
        let links = callers.iter().map(connect).collect::<Result<Vec<_>>>()?;
        if let [link] = &links[..] {
            return Ok(link.url());
        }
        let entrance = Entrance::open(callers.iter().cloned().zip(links).collect())?;
        let url = entrance.url();
        self.entrances.push(entrance);
        Ok(url)
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

    /// The links between a node and some others, in either direction.
    pub fn between(&self, one: Node, is_other: impl Fn(Node) -> bool) -> Vec<Arc<Link>> {
        let is_between = |link: &Link| {
            link.from() == one && is_other(link.to()) || link.to() == one && is_other(link.from())
        };
        self.links.iter().filter(|link| is_between(link)).cloned().collect()
    }

    /// The links that begin or end at a node.
    pub fn of(&self, node: Node) -> Vec<Arc<Link>> {
        self.links.iter().filter(|link| link.from() == node || link.to() == node).cloned().collect()
    }
}
