//! Puts a coordinator's own sweeper to work on simulated databases.

use std::sync::Arc;
use std::time::Duration;

use concord_coordinator::engine::Engine;
use concord_coordinator::resource::{Branches, Sweeper};
use concord_xa::{Holding, InDoubt, RawXid, Resolution, XaError, Xid};

use crate::database::Own;
use crate::life::Life;
use crate::mutant::Mutant;
use crate::network::Place;
use crate::resource::Resource;
use crate::world::{CLUSTER, World, address};

/// Sweeps every participant's schema at intervals, as long as this life lasts.
pub(crate) fn start(world: &Arc<World>, life: &Arc<Life>, engine: &Arc<Engine>, coordinator: u8) {
    let own = Arc::new(Own::default());
    for participant in &world.participants {
        let number = participant.number;
        let resource = Resource {
            host: Arc::clone(&participant.host),
            from: Place::Coordinator(coordinator),
            schema: number,
            own: Arc::clone(&own),
        };
        let name = format!("participant {number}");
        let swept = Swept { world: Arc::clone(world), resource, name: name.clone() };
        let sweeper = Sweeper::new(name, CLUSTER, vec![address(number)]);
        let (life, engine) = (Arc::clone(life), Arc::clone(engine));
        tokio::spawn(async move { life.within(swept.sweep_for_ever(&sweeper, &engine)).await });
    }
}

/// A simulated schema, as the sweeper sees it.
struct Swept {
    world: Arc<World>,
    resource: Resource,
    name: String,
}

impl Swept {
    async fn sweep_for_ever(&self, sweeper: &Sweeper, engine: &Engine) {
        let plan = self.world.scenario.coordinator;
        let about = 1_500_000 + u64::from(self.resource.schema);
        loop {
            if let Ok(listed) = self.resource.recover(&self.world, about).await {
                let mut listed: Vec<_> = listed.iter().map(|xid| self.in_doubt(xid)).collect();
                if !engine.looks_after(&self.name).await {
                    // As `Resource::sweep`: another coordinator looks after what is found.
                    listed.clear();
                }
                sweeper.sweep(engine, self, &listed, Duration::from_millis(plan.safety_ms)).await;
            }
            self.world.pause(plan.sweep_ms).await;
        }
    }

    /// As `XA RECOVER` lists it.
    fn in_doubt(&self, xid: &Xid) -> InDoubt {
        let raw = RawXid::from(xid);
        let cluster = if self.world.has(Mutant::ForeignToo) { CLUSTER } else { xid.cluster };
        InDoubt { raw, xid: Some(Xid { cluster, ..*xid }) }
    }
}

impl Branches for Swept {
    async fn holding(&self, xid: &Xid) -> Result<Holding, XaError> {
        let holding = self.resource.holding(&self.world, xid).await;
        holding.map_err(|error| XaError::Connection(format!("{error:?}")))
    }

    async fn commit(&self, xid: &Xid) -> Resolution {
        let resolution = self.resource.commit(&self.world, xid).await;
        self.world.say(|| format!("sweeper: commits {xid}: {resolution:?}"));
        resolution
    }

    async fn rollback(&self, xid: &Xid) -> Resolution {
        let resolution = self.resource.rollback(&self.world, xid).await;
        self.world.say(|| format!("sweeper: rolls {xid} back: {resolution:?}"));
        resolution
    }
}
