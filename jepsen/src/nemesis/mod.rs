//! Who makes the faults: when, which and where is drawn from the seed before the run begins.

mod fault;
mod schedule;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use futures_util::future::try_join_all;
use serde::Serialize;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::history::{Process, Type};
use crate::recorder::Recorder;
use crate::workload::edn;

pub use fault::Fault;
pub use schedule::{Planned, Settings, plan};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// kill -9 of a coordinator, a participant or a database server; it is started again after a while
    Kill,
    /// SIGSTOP of a coordinator, a participant or a database server, and SIGCONT after a while
    Pause,
    /// A node, or one connection, is cut off: wholly, in one direction, or with one end still believing in it
    Partition,
    /// Everything takes longer, and packets are lost, to and from a node or everywhere
    Slow,
    /// What was asked for is done, and the answer is lost
    DropReply,
    /// Calls of participants are done twice, some of them seconds later
    Duplicate,
    /// A database server is stopped and started, as for an upgrade
    Restart,
    /// A coordinator's wall clock jumps, in either direction, by up to an hour
    Clock,
    /// No file of the coordinator's can grow any more; it stops, and is started when there is room again
    DiskFull,
    /// A participant dies and never comes back: only the coordinator's sweeper can end its branches
    Bury,
    /// kill -9 of a coordinator among others, which is started again before its lease has run out or after
    KillCoordinator,
    /// SIGSTOP of a coordinator among others for longer than its lease
    PauseCoordinator,
    /// A coordinator is cut off from the store that it shares
    PartitionStore,
    /// A coordinator among others is cut off from all participants
    PartitionParticipants,
    /// kill -9 of the store that coordinators share; it is started again after a while
    KillStore,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 15] = [
        Kind::Kill,
        Kind::Pause,
        Kind::Partition,
        Kind::Slow,
        Kind::DropReply,
        Kind::Duplicate,
        Kind::Restart,
        Kind::Clock,
        Kind::DiskFull,
        Kind::Bury,
        Kind::KillCoordinator,
        Kind::PauseCoordinator,
        Kind::PartitionStore,
        Kind::PartitionParticipants,
        Kind::KillStore,
    ];

    /// Those that take a shared store, and coordinators that share it.
    pub const CLUSTER: [Kind; 5] = [
        Kind::KillCoordinator,
        Kind::PauseCoordinator,
        Kind::PartitionStore,
        Kind::PartitionParticipants,
        Kind::KillStore,
    ];

    /// Whether it ends a coordinator for longer than its lease, sooner or later.
    pub(crate) fn ends_coordinators(self) -> bool {
        matches!(self, Kind::KillCoordinator | Kind::PauseCoordinator)
    }

    /// Whether it can be where coordinators share a store, or where they do not.
    pub fn is_for(self, shared: bool) -> bool {
        match self {
            // A coordinator that shares a store has no files of its own.
            Kind::DiskFull => !shared,
            _ => shared || !Kind::CLUSTER.contains(&self),
        }
    }

    /// Its name on the command line and in histories.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::Pause => "pause",
            Kind::Partition => "partition",
            Kind::Slow => "slow",
            Kind::DropReply => "drop-reply",
            Kind::Duplicate => "duplicate",
            Kind::Restart => "restart",
            Kind::Clock => "clock",
            Kind::DiskFull => "disk-full",
            Kind::Bury => "bury",
            Kind::KillCoordinator => "kill-coordinator",
            Kind::PauseCoordinator => "pause-coordinator",
            Kind::PartitionStore => "partition-store",
            Kind::PartitionParticipants => "partition-participants",
            Kind::KillStore => "kill-store",
        }
    }
}

/// What the history says of a fault.
#[derive(Debug, Serialize)]
struct Noted {
    /// Pairs its beginning and its end.
    id: u64,
    target: String,
    detail: String,
}

/// Who writes down a fault.
#[derive(Debug)]
struct Scribe<'a> {
    recorder: &'a Recorder,
    name: &'static str,
    noted: Noted,
}

impl Scribe<'_> {
    /// It has been made.
    fn start(&self) {
        self.record("start");
    }

    /// It has been mended.
    fn stop(&self) {
        self.record("stop");
    }

    fn record(&self, when: &str) {
        let f = format!("{when}-{}", self.name);
        self.recorder.record(Process::Nemesis, Type::Info, &f, edn(&self.noted), None);
    }
}

/// Makes the faults of a plan, each in its time, and returns when all are over.
///
/// # Errors
/// When a fault cannot be made or mended; when a process has ended by itself.
pub async fn unleash(cluster: &Cluster, recorder: &Recorder, plan: Vec<Planned>) -> Result<()> {
    let started = Instant::now();
    let faults = (0u64..).zip(plan).map(|(id, planned)| async move {
        tokio::time::sleep_until(started + planned.at).await;
        let Planned { kind, fault, lasts, .. } = planned;
        let (target, detail) = (fault.target(cluster), fault.detail());
        let scribe = Scribe { recorder, name: kind.name(), noted: Noted { id, target, detail } };
        let made = fault.make(cluster, id, lasts, &scribe).await;
        made.with_context(|| format!("the fault {} on {}", scribe.name, scribe.noted.target))
    });
    try_join_all(faults).await.map(drop)
}
