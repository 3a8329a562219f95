//! The faults: how each is made, and mended.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use concord_sandbox::{Server, Service};
use tokio::sync::MutexGuard;
use tokio::time::sleep;

use super::Scribe;
use crate::cluster::network::{Condition, Direction, End, Link, Node};
use crate::cluster::{Cluster, START_MAX, StoreServer, start_persistently};
use crate::node::participant::DoorFaults;

/// What is left of the coordinator's disk, in bytes.
const DISK_LEFT: u64 = 64 * 1024;
/// How often a connection that flaps breaks.
const FLAP_EVERY: Duration = Duration::from_millis(300);

/// A fault and its target.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// See [`Kind::Kill`](super::Kind::Kill).
    Kill(Node),
    /// See [`Kind::Pause`](super::Kind::Pause).
    Pause(Node),
    /// See [`Kind::Partition`](super::Kind::Partition).
    Partition(Side, Cut),
    /// See [`Kind::Slow`](super::Kind::Slow); by so many milliseconds, and up to as many more.
    Slow(Side, u64),
    /// See [`Kind::DropReply`](super::Kind::DropReply); so many of a hundred.
    DropReplies(u8),
    /// See [`Kind::Duplicate`](super::Kind::Duplicate); so many of a hundred.
    Duplicates(u8),
    /// See [`Kind::Restart`](super::Kind::Restart).
    Restart(Node),
    /// See [`Kind::Clock`](super::Kind::Clock); that of this coordinator, by so many milliseconds.
    Clock(usize, i64),
    /// See [`Kind::DiskFull`](super::Kind::DiskFull).
    DiskFull,
    /// See [`Kind::Bury`](super::Kind::Bury).
    Bury(usize),
}

/// Where a fault of the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// On all links of a node.
    Node(Node),
    /// On one link: a number to choose it by.
    Link(usize),
    /// Between this coordinator and the store.
    Store(usize),
    /// Between this coordinator and all participants.
    Participants(usize),
}

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing comes through.
    Whole,
    /// Nothing arrives at one end.
    Deaf(End),
    /// One end has forgotten the connection, and the other does not know.
    HalfOpen(End),
    /// Whole, and not, and whole again.
    Flapping,
}

impl Fault {
    /// Whom it hits, for people.
    pub(super) fn target(&self, cluster: &Cluster) -> String {
        match self {
            Fault::Kill(node) | Fault::Pause(node) => node.to_string(),
            Fault::Partition(side, _) | Fault::Slow(side, _) => side.describe(cluster),
            Fault::DropReplies(_) | Fault::Duplicates(_) => "participants".to_owned(),
            Fault::Restart(node) => node.to_string(),
            Fault::Clock(number, _) => Node::Coordinator(*number).to_string(),
            Fault::DiskFull => Node::Coordinator(0).to_string(),
            Fault::Bury(number) => Node::Participant(*number).to_string(),
        }
    }

    /// What is done to it, for people.
    pub(super) fn detail(&self) -> String {
        match self {
            Fault::Kill(_) => "kill -9".to_owned(),
            Fault::Pause(_) => "SIGSTOP".to_owned(),
            Fault::Partition(_, Cut::Whole) => "cut off".to_owned(),
            Fault::Partition(_, Cut::Deaf(End::Caller)) => "one-way: no answers arrive".to_owned(),
            Fault::Partition(_, Cut::Deaf(End::Callee)) => "one-way: no calls arrive".to_owned(),
            Fault::Partition(_, Cut::HalfOpen(End::Caller)) => {
                "half-open: forgotten by the caller".to_owned()
            }
            Fault::Partition(_, Cut::HalfOpen(End::Callee)) => {
                "half-open: forgotten by the callee".to_owned()
            }
            Fault::Partition(_, Cut::Flapping) => "cut off, again and again".to_owned(),
            Fault::Slow(_, ms) => format!("{ms} to {} ms later, 2 % of packets lost", 2 * ms),
            Fault::DropReplies(share) => format!("{share} % of answers lost"),
            Fault::Duplicates(share) => format!("{share} % of calls done twice"),
            Fault::Restart(_) => "stopped and started".to_owned(),
            Fault::Clock(_, ms) => format!("{:+} s", ms / 1_000),
            Fault::DiskFull => "no file may grow".to_owned(),
            Fault::Bury(_) => "kill -9, for good".to_owned(),
        }
    }

    /// Makes it, and mends it after a while; has both written down.
    pub(super) async fn make(
        &self,
        cluster: &Cluster,
        id: u64,
        lasts: Duration,
        scribe: &Scribe<'_>,
    ) -> Result<()> {
        if self.may_fail_store(cluster) {
            cluster.store_may_fail();
        }
        match self {
            Fault::Kill(node) => {
                let mut victim = Victim::of(cluster, *node).await?;
                if victim.is_buried() {
                    return Ok(());
                }
                victim.kill9(cluster)?;
                scribe.start();
                sleep(lasts).await;
                victim.start(lasts + START_MAX).await?;
            }
            Fault::Pause(node) => {
                let mut victim = Victim::of(cluster, *node).await?;
                if victim.is_buried() {
                    return Ok(());
                }
                victim.pause()?;
                scribe.start();
                sleep(lasts).await;
                victim.resume()?;
            }
            Fault::Partition(side, cut) => {
                let links = side.links(cluster);
                scribe.start();
                cut.keep(&links, id, lasts).await;
                mend(&links, id);
            }
            Fault::Slow(side, ms) => {
                let delay = Duration::from_millis(*ms);
                let slow = Direction { delay, jitter: delay, loss: 0.02, ..Direction::default() };
                keep(&side.links(cluster), id, Condition::both(slow), lasts, scribe).await;
            }
            Fault::DropReplies(share) => {
                let lost = f64::from(*share) / 100.0;
                set_doors(cluster, DoorFaults { drop_reply: lost, ..DoorFaults::default() }).await?;
                // Answers of databases and of the coordinator are lost with their connection.
                let back = Direction { reset: lost / 20.0, ..Direction::default() };
                keep(
                    cluster.network().links(),
                    id,
                    Condition { back, ..Condition::default() },
                    lasts,
                    scribe,
                )
                .await;
                set_doors(cluster, DoorFaults::default()).await?;
            }
            Fault::Duplicates(share) => {
                let share = f64::from(*share) / 100.0;
                let faults = DoorFaults { duplicate: share, late: share / 8.0, ..DoorFaults::default() };
                set_doors(cluster, faults).await?;
                scribe.start();
                sleep(lasts).await;
                set_doors(cluster, DoorFaults::default()).await?;
            }
            Fault::Restart(node) => {
                let mut victim = Victim::of(cluster, *node).await?;
                scribe.start();
                victim.stop().await?;
                sleep(lasts).await;
                victim.start(START_MAX).await?;
            }
            Fault::Clock(number, ms) => {
                set_clock(cluster, *number, *ms).await?;
                scribe.start();
                // Whoever kills it meanwhile gives it a clock that is right again.
                sleep(lasts).await;
                set_clock(cluster, *number, 0).await?;
            }
            Fault::DiskFull => {
                let mut process = cluster.process(Node::Coordinator(0)).await?;
                process.limit_file_size(Some(DISK_LEFT))?;
                scribe.start();
                sleep(lasts).await;
                match process.exited()? {
                    None => process.limit_file_size(None)?,
                    Some(_) => start_persistently(&mut process, START_MAX).await?,
                }
            }
            Fault::Bury(number) => {
                let mut process = cluster.process(Node::Participant(*number)).await?;
                process.kill9()?;
                scribe.start();
                return Ok(());
            }
        }
        scribe.stop();
        Ok(())
    }

    /// Whether a coordinator may stop because of it: its store does not do what it should, or its lease may run out.
    fn may_fail_store(&self, cluster: &Cluster) -> bool {
        match self {
            Fault::DiskFull => true,
            Fault::Kill(node) | Fault::Restart(node) => *node == Node::Store,
            Fault::Pause(node) => matches!(node, Node::Store | Node::Coordinator(_)),
            Fault::Partition(side, _) | Fault::Slow(side, _) => {
                side.links(cluster).iter().any(|link| link.to() == Node::Store)
            }
            Fault::DropReplies(_) => cluster.store().is_some(),
            Fault::Duplicates(_) | Fault::Clock(..) | Fault::Bury(_) => false,
        }
    }
}

impl Side {
    fn links(self, cluster: &Cluster) -> Vec<Arc<Link>> {
        let network = cluster.network();
        match self {
            Side::Node(node) => network.of(node),
            Side::Link(number) => vec![Arc::clone(&network.links()[number % network.links().len()])],
            Side::Store(number) => network.between(Node::Coordinator(number), |node| node == Node::Store),
            Side::Participants(number) => {
                network.between(Node::Coordinator(number), |node| matches!(node, Node::Participant(_)))
            }
        }
    }

    fn describe(self, cluster: &Cluster) -> String {
        match self {
            Side::Node(node) => node.to_string(),
            Side::Link(_) => {
                let between =
                    self.links(cluster).into_iter().map(|link| format!("{} to {}", link.from(), link.to()));
                between.collect::<Vec<_>>().join(", ")
            }
            Side::Store(number) => format!("{} and the store", Node::Coordinator(number)),
            Side::Participants(number) => format!("{} and participants", Node::Coordinator(number)),
        }
    }
}

impl Cut {
    /// Cuts links, and keeps them so for a while.
    async fn keep(self, links: &[Arc<Link>], id: u64, lasts: Duration) {
        match self {
            Cut::Whole => spoil(links, id, Condition::cut()),
            Cut::Deaf(end) => spoil(links, id, Condition::deaf(end)),
            Cut::HalfOpen(end) => {
                for link in links {
                    link.forget(id, end);
                }
            }
            Cut::Flapping => {
                let flapping = async {
                    loop {
                        spoil(links, id, Condition::cut());
                        sleep(FLAP_EVERY).await;
                        spoil(links, id, Condition::default());
                        sleep(FLAP_EVERY).await;
                    }
                };
                tokio::time::timeout(lasts, flapping).await.ok();
                return;
            }
        }
        sleep(lasts).await;
    }
}

/// A process that is in this fault's hands, and in no other's.
enum Victim<'a> {
    Process(Node, MutexGuard<'a, Service>),
    Server(MutexGuard<'a, Server>),
    Store(MutexGuard<'a, StoreServer>),
}

impl Victim<'_> {
    /// Waits until no other fault has it.
    async fn of(cluster: &Cluster, node: Node) -> Result<Victim<'_>> {
        Ok(match node {
            Node::Database(number) => Victim::Server(cluster.database(number).lock().await),
            Node::Store => Victim::Store(cluster.store().context("no store is shared")?.lock().await),
            _ => Victim::Process(node, cluster.process(node).await?),
        })
    }

    /// Whether it is dead for good: every other fault leaves its victim running.
    fn is_buried(&self) -> bool {
        matches!(self, Victim::Process(_, process) if process.pid() == 0)
    }

    fn kill9(&mut self, cluster: &Cluster) -> Result<()> {
        match self {
            Victim::Process(node, process) => match cluster.has_given_up(*node, process)? {
                // It has been faster.
                true => Ok(()),
                false => Ok(process.kill9()?),
            },
            Victim::Server(server) => Ok(server.kill9()?),
            Victim::Store(server) => server.kill9(),
        }
    }

    async fn stop(&mut self) -> Result<()> {
        match self {
            Victim::Process(_, process) => Ok(process.kill9()?),
            Victim::Server(server) => Ok(server.stop().await?),
            Victim::Store(server) => server.stop().await,
        }
    }

    async fn start(&mut self, patience: Duration) -> Result<()> {
        match self {
            Victim::Process(_, process) => start_persistently(process, patience).await,
            Victim::Server(server) => Ok(server.restart().await?),
            Victim::Store(server) => server.restart().await,
        }
    }

    fn pause(&mut self) -> Result<()> {
        match self {
            Victim::Process(_, process) => Ok(process.pause()?),
            Victim::Server(server) => Ok(server.pause()?),
            Victim::Store(server) => server.pause(),
        }
    }

    fn resume(&mut self) -> Result<()> {
        match self {
            Victim::Process(_, process) => Ok(process.resume()?),
            Victim::Server(server) => Ok(server.resume()?),
            Victim::Store(server) => server.resume(),
        }
    }
}

/// Keeps links in a condition for a while, and mends them.
async fn keep(links: &[Arc<Link>], id: u64, condition: Condition, lasts: Duration, scribe: &Scribe<'_>) {
    spoil(links, id, condition);
    scribe.start();
    sleep(lasts).await;
    mend(links, id);
}

fn spoil(links: &[Arc<Link>], id: u64, condition: Condition) {
    for link in links {
        link.spoil(id, condition);
    }
}

fn mend(links: &[Arc<Link>], id: u64) {
    for link in links {
        link.mend(id);
    }
}

/// Sets how far off a coordinator's clock is.
async fn set_clock(cluster: &Cluster, number: usize, ms: i64) -> Result<()> {
    let node = Node::Coordinator(number);
    let mut process = cluster.process(node).await?;
    match process.tell(&format!("clock {ms}")) {
        // It has been faster, and its next life has a clock that is right.
        Err(_) if cluster.has_given_up(node, &mut process)? => Ok(()),
        told => Ok(told?),
    }
}

/// Has the doors of all participants do wrong, or right. One that is in another fault's hands is waited for: it must not
/// go on doing wrong when all is mended.
async fn set_doors(cluster: &Cluster, faults: DoorFaults) -> Result<()> {
    let line = serde_json::to_string(&faults)?;
    for number in 0..cluster.databases() {
        let mut process = cluster.process(Node::Participant(number)).await?;
        if process.pid() != 0 {
            process.tell(&line)?;
        }
    }
    Ok(())
}
