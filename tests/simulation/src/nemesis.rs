//! Brings about what the scenario has in store, and puts everything right at the end.

use std::sync::Arc;
use std::time::Duration;

use concord_protocol::{BranchId, ClusterId, Epoch, Gtid};
use concord_xa::Xid;

use crate::coordinator::Coordinator;
use crate::database::Statement;
use crate::figures::Fault;
use crate::life::Life;
use crate::scenario::{Disaster, Moment};
use crate::world::World;

/// The identity of other coordinators, on another store.
const FOREIGN: ClusterId = ClusterId(0xF0);

/// Lets every disaster happen at its time, as long as the life that it answers lasts. Those of coordinators that
/// come with an effect, and those of their stores, happen there.
pub(crate) fn rage(world: &Arc<World>) -> Arc<Life> {
    let rage = Life::begin();
    for disaster in world.scenario.disasters.clone() {
        let (world, rage) = (Arc::clone(world), Arc::clone(&rage));
        tokio::spawn(async move { rage.within(strike(world, disaster)).await });
    }
    for (index, (schema, at_ms)) in world.scenario.foreigners.iter().copied().enumerate() {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            world.pause(at_ms).await;
            intrude(&world, index, schema);
        });
    }
    rage
}

async fn strike(world: Arc<World>, disaster: Disaster) {
    match disaster {
        Disaster::Coordinator { who, moment: Moment::At(at_ms), down_ms } => {
            world.pause(at_ms).await;
            world.coordinator(who).kill(&world, down_ms);
        }
        Disaster::Coordinator { .. } | Disaster::Store { .. } => {}
        Disaster::Stop { who, at_ms, grace_ms } => {
            world.pause(at_ms).await;
            world.coordinator(who).stop_in_good_order(&world, Duration::from_millis(grace_ms)).await;
        }
        Disaster::Twin { who, at_ms, for_ms } => {
            world.pause(at_ms).await;
            let Some(participant) = world.participants.get(usize::from(who)) else { return };
            if let Some(old) = participant.replace(&world) {
                world.figures.count(Fault::Twin);
                world.say(|| format!("participant {who}: a new process takes its place"));
                world.pause(for_ms).await;
                old.end();
            }
        }
        Disaster::Participant { who, at_ms, down_ms } => {
            world.pause(at_ms).await;
            let Some(participant) = world.participants.get(usize::from(who)) else { return };
            if participant.is_up() {
                world.figures.count(Fault::Participant);
                world.say(|| format!("participant {who}: killed"));
                participant.kill();
                world.pause(down_ms).await;
                world.say(|| format!("participant {who}: starts"));
                participant.start(&world);
            }
        }
        Disaster::Database { who, at_ms, down_ms } => {
            world.pause(at_ms).await;
            let Some(database) = world.databases.get(usize::from(who)) else { return };
            if database.is_up() {
                world.figures.count(Fault::Database);
                world.say(|| format!("database {who}: killed"));
                database.crash(&world);
                world.pause(down_ms).await;
                world.say(|| format!("database {who}: starts"));
                database.start();
            }
        }
        Disaster::Partition { from, to, both, at_ms, for_ms } => {
            world.pause(at_ms).await;
            world.figures.count(Fault::Partition);
            world.say(|| format!("network: nothing goes from {from:?} to {to:?}, both ways: {both}"));
            world.network.cut(from, to);
            if both {
                world.network.cut(to, from);
            }
            world.pause(for_ms).await;
            world.network.mend(from, to);
            world.network.mend(to, from);
        }
        Disaster::Clock { who, at_ms, by_ms } => {
            world.pause(at_ms).await;
            world.figures.count(Fault::Clock);
            world.say(|| format!("coordinator {who}: its wall clock jumps by {by_ms} ms"));
            world.coordinator(who).jump(by_ms);
        }
        Disaster::Freeze { who, at_ms, for_ms } => {
            world.pause(at_ms).await;
            let Some(life) = world.coordinator(who).freeze() else { return };
            world.figures.count(Fault::Frozen);
            world.say(|| format!("coordinator {who}: stands still"));
            world.pause(for_ms).await;
            world.say(|| format!("coordinator {who}: goes on"));
            life.thaw();
        }
        Disaster::StoreAway { at_ms, for_ms } => {
            world.pause(at_ms).await;
            let Some(server) = &world.server else { return };
            world.figures.count(Fault::StoreAway);
            world.say(|| "the store's database is killed".into());
            server.leave();
            world.pause(for_ms).await;
            world.say(|| "the store's database starts".into());
            server.come_back();
        }
        Disaster::StoreClock { at_ms, by_ms } => {
            world.pause(at_ms).await;
            let Some(server) = &world.server else { return };
            world.figures.count(Fault::Clock);
            world.say(|| format!("the clock of the store's database jumps by {by_ms} ms"));
            server.jump(by_ms);
        }
        Disaster::Pause { at_ms, for_ms } => {
            world.pause(at_ms).await;
            world.figures.count(Fault::Pause);
            tokio::time::advance(Duration::from_millis(for_ms)).await;
            world.say(|| format!("everything stood still for {for_ms} ms"));
        }
    }
}

/// Prepares a branch of another coordinator, and leaves it there.
pub(crate) fn intrude(world: &World, index: usize, schema: u8) {
    let Some(participant) = world.participants.get(usize::from(schema)) else { return };
    let gtid = Gtid::compose(world.now_ms(), Epoch(0), index as u64);
    let xid = Xid { cluster: FOREIGN, gtid, branch: BranchId::FIRST };
    let marker = Statement::Marker(schema, gtid, xid.branch.0, None);
    let batch = [Statement::XaStart(xid), marker, Statement::XaEnd(xid), Statement::XaPrepare(xid)];
    let prepared = participant.host.inspect(|server| {
        server.set_time(world.now_ms());
        let session = server.connect();
        let prepared = batch.iter().all(|statement| server.execute(session, statement).is_ok());
        server.disconnect(session);
        prepared
    });
    if prepared {
        world.say(|| format!("another coordinator leaves {xid} prepared at participant {schema}"));
        world.add_foreigner(schema, xid);
    }
}

/// Starts what is down, but for the participants that never come back, and lets every message through. Coordinators
/// are started by their supervisors.
pub(crate) fn mend(world: &Arc<World>) {
    world.set_healed();
    world.network.heal();
    if let Some(server) = &world.server {
        server.come_back();
    }
    world.coordinators().iter().for_each(Coordinator::thaw);
    for database in world.databases.iter().filter(|database| !database.is_up()) {
        database.start();
    }
    for participant in &world.participants {
        if world.scenario.forsaken.contains(&participant.number) {
            participant.kill();
        } else if !participant.is_up() {
            participant.start(world);
        }
    }
}
