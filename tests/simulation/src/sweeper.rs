//! The coordinator's sweeper (as `coordinator/src/resource/sweeper.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use concord_coordinator::engine::{Engine, Verdict};
use concord_protocol::{Decision, Outcome};
use concord_xa::{Holding, Resolution, Xid};
use tokio::time::Instant;

use crate::database::Own;
use crate::life::Life;
use crate::mutant::Mutant;
use crate::network::Place;
use crate::resource::Resource;
use crate::world::{CLUSTER, World, address};

/// Sweeps every participant's database at intervals, as long as this life lasts.
pub(crate) fn start(world: &Arc<World>, life: &Arc<Life>, engine: &Arc<Engine>) {
    let own = Arc::new(Own::default());
    for participant in &world.participants {
        let resource = Resource {
            host: Arc::clone(&participant.host),
            from: Place::Coordinator,
            schema: participant.number,
            own: Arc::clone(&own),
        };
        let (world, life, engine) = (Arc::clone(world), Arc::clone(life), Arc::clone(engine));
        tokio::spawn(async move {
            let mut sweeper = Sweeper { resource, engine, seen: BTreeMap::new() };
            life.within(sweeper.sweep_for_ever(&world)).await
        });
    }
}

struct Sweeper {
    resource: Resource,
    engine: Arc<Engine>,
    /// Our branches that the last sweep found, and since when.
    seen: BTreeMap<Xid, Instant>,
}

impl Sweeper {
    async fn sweep_for_ever(&mut self, world: &Arc<World>) {
        let plan = world.scenario.coordinator;
        let safety = Duration::from_millis(plan.safety_ms);
        loop {
            self.sweep(world, safety).await;
            world.pause(plan.sweep_ms).await;
        }
    }

    async fn sweep(&mut self, world: &Arc<World>, safety: Duration) {
        let about = 1_500_000 + u64::from(self.resource.schema);
        let Ok(listed) = self.resource.recover(world, about).await else { return };
        let now = Instant::now();
        let foreign_too = world.has(Mutant::ForeignToo);
        let ours: Vec<Xid> = listed.into_iter().filter(|xid| foreign_too || xid.cluster == CLUSTER).collect();
        self.seen = ours.iter().map(|xid| (*xid, self.seen.get(xid).copied().unwrap_or(now))).collect();
        let due: Vec<Xid> = ours.into_iter().filter(|xid| self.seen[xid].elapsed() >= safety).collect();
        let here = address(self.resource.schema);
        let stuck = self.engine.stuck(safety).into_iter().filter(|stuck| *stuck.participant == *here);
        let stuck = stuck
            .map(|stuck| {
                (Xid { cluster: CLUSTER, gtid: stuck.gtid, branch: stuck.branch }, Some(stuck.decision))
            })
            .filter(|(xid, _)| !due.contains(xid));
        let work: Vec<_> = stuck.collect();
        for (xid, decision) in due.iter().map(|xid| (*xid, None)).chain(work) {
            self.end(world, xid, decision).await;
        }
    }

    async fn end(&mut self, world: &Arc<World>, xid: Xid, decision: Option<Decision>) {
        let verdict = match decision {
            Some(Decision::Commit) => Verdict::Committed,
            Some(Decision::Rollback) => Verdict::RolledBack,
            // Found listed: it may live in another schema of the same server.
            None => match self.resource.holding(world, &xid).await {
                Ok(Holding::Here(_) | Holding::NoTable) => match self.engine.inquire(xid.gtid).await {
                    Ok(standing) => standing.verdict,
                    Err(_) => return,
                },
                Ok(Holding::Elsewhere) | Err(_) => return,
            },
        };
        let guesses = world.has(Mutant::SweeperGuesses);
        let resolution = match verdict {
            Verdict::Committed => self.resource.commit(world, &xid).await,
            Verdict::RolledBack => self.resource.rollback(world, &xid).await,
            Verdict::Undecided if guesses => self.resource.rollback(world, &xid).await,
            Verdict::Undecided => return,
        };
        world.say(|| format!("sweeper: {xid}: {verdict:?} -> {resolution:?}"));
        let outcome = match resolution {
            Resolution::Committed { .. } => Outcome::Committed,
            Resolution::RolledBack { .. } => Outcome::RolledBack,
            Resolution::NoTrace { .. } | Resolution::Undecided { .. } => return,
        };
        self.seen.remove(&xid);
        self.engine.swept(xid.gtid, xid.branch, outcome);
    }
}
