//! Whether the claims hold: I1 to I8 of the project's README and TESTING notes, at the end of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use concord_coordinator::engine::{Engine, EngineError, Order, Snapshot, TransactionFilter};
use concord_coordinator::store::StoreError;
use concord_protocol::{BranchState, Decision, Gtid, State};
use concord_xa::Xid;

use crate::database::{Deed, Key, Note, Row};
use crate::life::Life;
use crate::scenario::TransactionPlan;
use crate::world::{CLUSTER, World};

/// How long it may take from the end of all faults until everything has ended, in milliseconds.
const QUIET_WITHIN_MS: u64 = 900_000;

/// What an initiator was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) transaction: u32,
    pub(crate) gtid: Option<Gtid>,
    pub(crate) answer: Answer,
}

/// An answer that is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Committed,
    RolledBack,
    /// Refused before it began.
    NotBegun,
}

/// How many transactions ended how.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Summary {
    pub(crate) committed: u64,
    pub(crate) rolled_back: u64,
}

// ---- I8 ----

/// Waits until nothing is left to be done. An operator has parked branches retried meanwhile.
pub(crate) async fn until_quiet(world: &Arc<World>) {
    let from = world.now_ms();
    let mut quiet = 0;
    while quiet < 3 {
        world.pause(1_000).await;
        let left = left_over(world);
        quiet = if left.is_empty() { quiet + 1 } else { 0 };
        if world.now_ms() - from > QUIET_WITHIN_MS {
            for one in left {
                world.violation("I8", one);
            }
            return;
        }
        retry_parked(world).await;
    }
    world.say(|| "nothing is left to be done".into());
}

async fn retry_parked(world: &World) {
    for coordinator in world.coordinators() {
        let Some((life, engine)) = coordinator.door() else { continue };
        if engine.statistics().parked > 0 {
            retry_parked_of(world, &life, &engine).await;
        }
    }
}

async fn retry_parked_of(world: &World, life: &Life, engine: &Engine) {
    for gtid in world.names().into_keys() {
        let order = Order { operator: "operator".into(), reason: "the warehouse is built".into() };
        let retried = life.within(engine.retry(gtid, order));
        if let Some(Err(error)) = retried.await
            && !matches!(
                error,
                EngineError::UnknownGtid(_)
                    | EngineError::RolledBack { .. }
                    | EngineError::Refused { .. }
                    | EngineError::Elsewhere(_)
                    // Its lease has run out, or its disk has failed with the order not on it; it is about to end.
                    | EngineError::Store(StoreError::Read(_) | StoreError::Failed(_) | StoreError::Closed)
            )
        {
            world.violation("operator", format!("{gtid} cannot be retried: {error}"));
        }
    }
}

/// What is still to be done, in words.
fn left_over(world: &World) -> Vec<String> {
    let mut left = Vec::new();
    if world.network.under_way() > 0 {
        left.push(format!("{} messages are under way", world.network.under_way()));
    }
    for coordinator in world.coordinators() {
        let number = coordinator.number;
        match coordinator.door() {
            None => left.push(format!("coordinator {number} is down")),
            Some((_, engine)) => {
                let live = engine.statistics().live;
                if live > 0 {
                    left.push(format!("{live} transactions of coordinator {number}'s have not ended"));
                }
            }
        }
    }
    if let Some(server) = &world.server {
        let (unended, alive) = (server.unended(), server.alive(world).len());
        if unended > 0 {
            left.push(format!("the store has {unended} transactions that have not ended"));
        }
        if alive != world.coordinators().len() {
            left.push(format!("{alive} coordinators have a lease"));
        }
    }
    for database in &world.databases {
        let number = database.number;
        database.inspect(|server| {
            for xid in server.prepared().iter().filter(|xid| xid.cluster == CLUSTER) {
                left.push(format!("XA RECOVER of database {number} lists {xid}"));
            }
            let foreign = server.prepared().iter().filter(|xid| xid.cluster != CLUSTER).count();
            let open = server.open_transactions().saturating_sub(foreign);
            if open > 0 {
                left.push(format!("database {number} has {open} open transactions"));
            }
            for (key, row) in server.committed() {
                if let Row::Account { frozen, .. } = row
                    && *frozen != 0
                {
                    left.push(format!("database {number}: {frozen} are frozen in {key:?}"));
                }
            }
        });
    }
    left
}

// ---- at once ----

/// I2 and I3 at the moment when an initiator is told that every branch has ended: then all effects are there, or none
/// are. After a rollback nothing is frozen any more; but an XA branch may still be prepared, if the coordinator forgot
/// it in a crash (its record is not forced): recovery ends it later.
pub(crate) fn ended(world: &World, plan: &TransactionPlan, snapshot: &Snapshot) {
    if !snapshot.state.is_terminal() {
        return;
    }
    let (number, gtid) = (plan.number, snapshot.gtid);
    let parts = effects(world).remove(&gtid).unwrap_or_default();
    let committed = snapshot.state == State::Committed;
    for (_, part) in plan.branches.iter().zip(0u32..).filter(|(branch, _)| !branch.moves.is_empty()) {
        let deeds = parts.get(&part).copied().unwrap_or_default();
        if deeds.has_committed() != committed || deeds.attempt != deeds.confirm + deeds.cancel {
            let state = snapshot.state;
            let what =
                format!("transaction {number}, {gtid} is {state:?}, and of branch {part} there is {deeds:?}");
            world.violation(if committed { "I2" } else { "I3" }, what);
        }
    }
    for branch in snapshot.branches.iter().filter(|branch| branch.state == BranchState::Committed) {
        let xid = Xid { cluster: CLUSTER, gtid, branch: branch.id };
        if world.databases.iter().any(|database| database.inspect(|server| server.prepared().contains(&xid)))
        {
            world.violation(
                "I2",
                format!("transaction {number}, {xid} is said to have committed, and is prepared"),
            );
        }
    }
}

// ---- the others ----

/// What the ledgers say of one branch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Deeds {
    work: usize,
    attempt: usize,
    confirm: usize,
    cancel: usize,
}

/// Checks everything else.
pub(crate) async fn all(world: &Arc<World>) {
    conservation(world);
    foreigners(world);
    let effects = effects(world);
    for (gtid, parts) in &effects {
        if let Some(plan) = plan_of(world, *gtid) {
            agreement(world, *gtid, plan, parts);
        }
    }
    let committed = committed(world, &effects);
    once_per_transaction(world, &committed);
    promises(world, &committed);
    records(world, &committed).await;
}

pub(crate) fn summary(world: &World) -> Summary {
    let committed = committed(world, &effects(world)).len() as u64;
    Summary { committed, rolled_back: (world.names().len() as u64).saturating_sub(committed) }
}

fn plan_of(world: &World, gtid: Gtid) -> Option<&TransactionPlan> {
    let number = *world.names().get(&gtid)?;
    world.scenario.transactions.iter().find(|plan| plan.number == number)
}

fn notes(world: &World) -> Vec<Note> {
    world.databases.iter().flat_map(|database| database.inspect(|server| server.notes().to_vec())).collect()
}

/// By gtid and branch of the plan.
fn effects(world: &World) -> BTreeMap<Gtid, BTreeMap<u32, Deeds>> {
    let mut effects: BTreeMap<Gtid, BTreeMap<u32, Deeds>> = BTreeMap::new();
    for note in notes(world) {
        let deeds = effects.entry(note.xid.gtid).or_default().entry(note.part).or_default();
        match note.deed {
            Deed::Work => deeds.work += 1,
            Deed::Try => deeds.attempt += 1,
            Deed::Confirm => deeds.confirm += 1,
            Deed::Cancel => deeds.cancel += 1,
        }
    }
    effects
}

impl Deeds {
    fn has_committed(&self) -> bool {
        self.work > 0 || self.confirm > 0
    }
}

/// I1, I4, I6: every branch that moves money has taken effect once, or none has; none is left in between.
fn agreement(world: &World, gtid: Gtid, plan: &TransactionPlan, parts: &BTreeMap<u32, Deeds>) {
    let number = plan.number;
    let mut ends = BTreeSet::new();
    for (branch, part) in plan.branches.iter().zip(0u32..).filter(|(branch, _)| !branch.moves.is_empty()) {
        let deeds = parts.get(&part).copied().unwrap_or_default();
        ends.insert(deeds.has_committed());
        let once = deeds.work == 0 || deeds.work == branch.moves.len();
        let at_most = deeds.attempt <= 1 && deeds.confirm + deeds.cancel <= 1;
        if !once || !at_most {
            world.violation("I4", format!("transaction {number}, {gtid}, branch {part}: {deeds:?}"));
        }
        if deeds.attempt != deeds.confirm + deeds.cancel {
            world.violation("I6", format!("transaction {number}, {gtid}, branch {part} hangs: {deeds:?}"));
        }
    }
    if ends.len() > 1 {
        world.violation("I1", format!("transaction {number}, {gtid} has a mixed outcome: {parts:?}"));
    }
}

/// The transactions of which an effect is there.
fn committed(world: &World, effects: &BTreeMap<Gtid, BTreeMap<u32, Deeds>>) -> BTreeMap<Gtid, u32> {
    let names = world.names();
    let there = effects.iter().filter(|(_, parts)| parts.values().any(Deeds::has_committed));
    there.filter_map(|(gtid, _)| Some((*gtid, *names.get(gtid)?))).collect()
}

/// Whether a commit of it must leave an effect.
fn moves_money(world: &World, number: u32) -> bool {
    let mut plans = world.scenario.transactions.iter().filter(|plan| plan.number == number);
    plans.any(|plan| plan.branches.iter().any(|branch| !branch.moves.is_empty()))
}

/// I4: what an initiator asks for once, or again with the same key, takes effect once at the most.
fn once_per_transaction(world: &World, committed: &BTreeMap<Gtid, u32>) {
    let mut gtids: BTreeMap<u32, Vec<Gtid>> = BTreeMap::new();
    for (gtid, number) in committed {
        gtids.entry(*number).or_default().push(*gtid);
    }
    for (number, gtids) in gtids.into_iter().filter(|(_, gtids)| gtids.len() > 1) {
        world.violation("I4", format!("transaction {number} took effect more than once: {gtids:?}"));
    }
}

/// I2, I3: what was told holds; and what was told twice was told alike.
fn promises(world: &World, committed: &BTreeMap<Gtid, u32>) {
    let mut first: BTreeMap<u32, Answer> = BTreeMap::new();
    for Told { transaction, gtid, answer } in world.told() {
        let there = gtid.is_some_and(|gtid| committed.contains_key(&gtid));
        match answer {
            Answer::Committed if !there && moves_money(world, transaction) => {
                world.violation(
                    "I2",
                    format!("transaction {transaction}, {gtid:?} was told committed, and is not"),
                );
            }
            Answer::RolledBack if there => {
                world.violation(
                    "I3",
                    format!("transaction {transaction}, {gtid:?} was told rolled back, and is not"),
                );
            }
            Answer::NotBegun if committed.values().any(|number| *number == transaction) => {
                world.violation(
                    "I3",
                    format!("transaction {transaction} was told not begun, and has committed"),
                );
            }
            _ => {}
        }
        let earlier = *first.entry(transaction).or_insert(answer);
        let strict = world.options.strict_keys;
        if strict && earlier != answer && earlier != Answer::NotBegun && answer != Answer::NotBegun {
            let what = format!("transaction {transaction} was told {earlier:?}, then {answer:?} ({gtid:?})");
            world.violation("key", what);
        }
    }
}

/// I1, I2, I3: the coordinators' records agree with the databases, and know of no heuristic outcome.
async fn records(world: &World, committed: &BTreeMap<Gtid, u32>) {
    for coordinator in world.coordinators() {
        if let Some((_, engine)) = coordinator.door() {
            records_of(world, committed, &engine).await;
        }
    }
}

async fn records_of(world: &World, committed: &BTreeMap<Gtid, u32>, engine: &Engine) {
    for (gtid, number) in world.names() {
        let there = committed.contains_key(&gtid);
        match engine.get(gtid).await {
            Ok((snapshot, _)) => {
                let says = snapshot.decision() == Some(Decision::Commit);
                if says != there && (there || moves_money(world, number)) {
                    let state = snapshot.state;
                    world.violation(
                        "I1",
                        format!("transaction {number}, {gtid} is on record as {state:?}; effects: {there}"),
                    );
                }
                only_read(world, &snapshot);
                if snapshot.heuristic {
                    world.violation("I1", format!("transaction {number}, {gtid} has a heuristic outcome"));
                }
            }
            Err(EngineError::UnknownGtid(_)) if there => {
                world.violation(
                    "I2",
                    format!("transaction {number}, {gtid} is not on record, and has committed"),
                );
            }
            Err(EngineError::UnknownGtid(_)) => {}
            Err(error) => world.violation("records", format!("transaction {number}, {gtid}: {error}")),
        }
    }
    match engine.list(&TransactionFilter { limit: 1_000, ..TransactionFilter::default() }).await {
        Ok(page) => {
            for one in page.transactions.iter().filter(|one| !one.state.is_terminal()) {
                world.violation("I8", format!("{} is listed as {:?}", one.gtid, one.state));
            }
        }
        Err(error) => world.violation("records", format!("they cannot be listed: {error}")),
    }
}

/// I4, I6: a branch whose vote was "read-only" has written nothing, not even by a duplicate of its call.
fn only_read(world: &World, snapshot: &Snapshot) {
    for branch in snapshot.branches.iter().filter(|branch| branch.state == BranchState::ReadOnly) {
        let wrote = |note: &&Note| note.xid.gtid == snapshot.gtid && note.xid.branch == branch.id;
        if let Some(note) = notes(world).iter().find(wrote) {
            world.violation("I6", format!("branch {} had only read, and has written: {note:?}", branch.id));
        }
    }
}

/// Branches of another coordinator are as it left them.
fn foreigners(world: &World) {
    for (schema, xid) in world.foreigners() {
        let Some(participant) = world.participants.get(usize::from(schema)) else { continue };
        if !participant.host.inspect(|server| server.prepared().contains(&xid)) {
            world.violation(
                "foreign",
                format!("{xid} of another coordinator, at participant {schema}, has gone"),
            );
        }
    }
}

/// I7: money is conserved, nothing is negative, and every balance follows from the ledger.
fn conservation(world: &World) {
    let mut sum = 0;
    for database in &world.databases {
        database.inspect(|server| {
            for (key, row) in server.committed() {
                let (Key::Account(schema, account), Row::Account { balance, frozen }) = (key, row) else { continue };
                sum += balance + frozen;
                let own = server.notes().iter().filter(|note| note.account == (*schema, *account));
                let (moved, froze) = own.fold((0, 0), |(moved, froze), note| (moved + note.balance, froze + note.frozen));
                let follows = *balance == world.scenario.opening_balance + moved && *frozen == froze;
                if *balance < 0 || *frozen < 0 || !follows {
                    let what = format!("account {account} of participant {schema}: {balance}, {frozen} frozen; by its ledger {moved:+}, {froze:+}");
                    world.violation("I7", what);
                }
            }
        });
    }
    let accounts = world.scenario.participants.len() as i64 * i64::from(world.scenario.accounts);
    let expected = accounts * world.scenario.opening_balance;
    if sum != expected {
        world.violation("I7", format!("there were {expected}, and there are {sum}"));
    }
}
