//! The tables of a shared store, and the SQL transactions on them (as `coordinator/src/store/sql`): each is done at once,
//! as the locks of its rows would have it.

use std::collections::BTreeMap;

use concord_coordinator::store::{Entry, Filter, Owner, Reign, Stored, UnixMillis};
use concord_proto::store::{Record, record::Kind};
use concord_protocol::{Epoch, Gtid};

use super::{Problem, address};

#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// The database's clock, in milliseconds.
    pub(super) now_ms: u64,
    epoch: u32,
    term: u64,
    lives: BTreeMap<Epoch, LifeRow>,
    /// Of live transactions, by term and number.
    live: BTreeMap<Gtid, Log>,
    ended: BTreeMap<Gtid, Vec<(UnixMillis, Record)>>,
    keys: BTreeMap<String, Gtid>,
    counts: Counts,
}

type Log = BTreeMap<(u64, u64), (UnixMillis, Record)>;

/// One life of a coordinator.
#[derive(Debug)]
struct LifeRow {
    coordinator: u8,
    expires_ms: u64,
    term: u64,
    commits: u64,
    successor: Option<Epoch>,
}

/// What has happened so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Lives that were taken over.
    pub(crate) take_overs: u64,
    /// Writes that were refused for that.
    pub(crate) fenced: u64,
}

/// What a life commits at once.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) epoch: Epoch,
    /// How often it has committed before.
    pub(super) commits: u64,
    pub(super) term: u64,
    /// The number of the first entry.
    pub(super) seq: u64,
    pub(super) entries: Vec<Entry>,
    /// With a bug: without a look at the own row's successor.
    pub(super) unfenced: bool,
}

impl Tables {
    // ---- lives ----

    /// Begins a life.
    pub(super) fn begin(&mut self, coordinator: u8, lease_ms: u64) -> Epoch {
        self.epoch += 1;
        let epoch = Epoch(self.epoch);
        let expires_ms = self.now_ms + lease_ms;
        self.lives.insert(epoch, LifeRow { coordinator, expires_ms, term: 0, commits: 0, successor: None });
        epoch
    }

    fn own(&mut self, epoch: Epoch) -> Result<&mut LifeRow, Problem> {
        match self.lives.get_mut(&epoch) {
            Some(LifeRow { successor: Some(successor), .. }) => Err(Problem::Fenced(*successor)),
            Some(row) => Ok(row),
            None => Err(Problem::Refused("its row is gone".into())),
        }
    }

    pub(super) fn renew(&mut self, epoch: Epoch, lease_ms: u64) -> Result<(), Problem> {
        let expires_ms = self.now_ms + lease_ms;
        self.own(epoch)?.expires_ms = expires_ms;
        Ok(())
    }

    /// Gives the lease back.
    pub(super) fn release(&mut self, epoch: Epoch) {
        if let Ok(row) = self.own(epoch) {
            row.expires_ms = 0;
        }
    }

    /// Takes over from all whose lease has run out, and from earlier lives of `namesake`. `raise`: the own term.
    pub(super) fn take_over(&mut self, own: Epoch, namesake: Option<u8>, raise: bool) -> Result<(), Problem> {
        let now = self.now_ms;
        let is_due = |epoch: &Epoch, row: &LifeRow| {
            let earlier = *epoch < own && namesake == Some(row.coordinator);
            row.successor.is_none() && *epoch != own && (row.expires_ms < now || earlier)
        };
        let due: Vec<Epoch> =
            self.lives.iter().filter(|(epoch, row)| is_due(epoch, row)).map(|(epoch, _)| *epoch).collect();
        if due.is_empty() {
            return Ok(());
        }
        let term = self.term + u64::from(raise);
        self.own(own)?.term = term;
        self.term = term;
        self.counts.take_overs += due.len() as u64;
        for (epoch, row) in &mut self.lives {
            if due.contains(epoch) || row.successor.is_some_and(|successor| due.contains(&successor)) {
                row.successor = Some(own);
            }
        }
        Ok(())
    }

    pub(super) fn term(&mut self, epoch: Epoch) -> Result<u64, Problem> {
        let row = self.lives.get(&epoch).ok_or_else(|| Problem::Refused("its row is gone".into()))?;
        Ok(row.term)
    }

    /// The epoch itself, and all that it has taken over.
    pub(super) fn owned(&self, epoch: Epoch) -> Vec<Epoch> {
        let owned = self.lives.iter().filter(|(one, row)| **one == epoch || row.successor == Some(epoch));
        owned.map(|(one, _)| *one).collect()
    }

    /// Those whose lease has not run out.
    pub(crate) fn alive(&self) -> Vec<Epoch> {
        let alive =
            self.lives.iter().filter(|(_, row)| row.successor.is_none() && row.expires_ms >= self.now_ms);
        alive.map(|(epoch, _)| *epoch).collect()
    }

    /// What is known of an epoch, to the life `own`.
    pub(super) fn reign(&self, epoch: Epoch, own: Epoch) -> Reign {
        let Some(row) = self.lives.get(&epoch) else {
            return Reign { owner: Owner::Us, is_over: epoch < own };
        };
        let owner = row.successor.unwrap_or(epoch);
        let coordinator = self.lives.get(&owner).map_or(row.coordinator, |row| row.coordinator);
        let is_over = row.successor.is_some();
        match owner == own {
            true => Reign { owner: Owner::Us, is_over },
            false => Reign { owner: Owner::Other { address: address(coordinator) }, is_over },
        }
    }

    // ---- transactions ----

    /// Commits once, however often it is asked to, and only while the life has no successor.
    pub(super) fn commit(&mut self, batch: Batch) -> Result<(), Problem> {
        let Batch { epoch, commits, term, seq, entries, unfenced } = batch;
        let row = self.lives.get_mut(&epoch).ok_or_else(|| Problem::Refused("its row is gone".into()))?;
        match (row.successor, row.commits) {
            (Some(successor), _) if !unfenced => {
                self.counts.fenced += 1;
                return Err(Problem::Fenced(successor));
            }
            (_, before) if before == commits + 1 => return Ok(()),
            (_, before) if before != commits => {
                return Err(Problem::Refused(format!("it has made {before} commits, not {commits}")));
            }
            _ => row.commits += 1,
        }
        for (entry, seq) in entries.into_iter().zip(seq..) {
            self.append((term, seq), entry)?;
        }
        Ok(())
    }

    fn append(&mut self, place: (u64, u64), Entry { gtid, at, record }: Entry) -> Result<(), Problem> {
        if let Some(Kind::Begun(begun)) = &record.kind
            && !begun.idempotency_key.is_empty()
        {
            self.keys.entry(begun.idempotency_key.clone()).or_insert(gtid);
        }
        if let Some(records) = self.ended.get_mut(&gtid) {
            // What comes after the end is kept with it.
            records.push((at, record));
            return Ok(());
        }
        let ends = matches!(record.kind, Some(Kind::Ended(_)));
        let log = self.live.entry(gtid).or_default();
        if log.insert(place, (at, record)).is_some() {
            return Err(Problem::Refused(format!("there is a record {place:?} of {gtid} already")));
        }
        if ends && let Some(log) = self.live.remove(&gtid) {
            self.ended.insert(gtid, log.into_values().collect());
        }
        Ok(())
    }

    /// Live transactions that these epochs have issued, or that none of them has.
    pub(super) fn live(&self, issuers: &[Epoch], theirs: bool) -> Vec<Stored> {
        let some = self.live.iter().filter(|(gtid, _)| issuers.contains(&gtid.epoch()) == theirs);
        some.map(|(gtid, log)| stored(*gtid, log)).collect()
    }

    pub(super) fn get_live(&self, gtid: Gtid) -> Option<Stored> {
        self.live.get(&gtid).map(|log| stored(gtid, log))
    }

    pub(super) fn get_ended(&self, gtid: Gtid) -> Option<Stored> {
        self.ended.get(&gtid).map(|records| Stored { gtid, records: records.clone() })
    }

    pub(super) fn list_ended(&self, filter: &Filter) -> Vec<Stored> {
        let matches = |records: &[(UnixMillis, Record)]| {
            records.iter().all(|(_, record)| match &record.kind {
                Some(Kind::Begun(begun)) => filter.name.as_ref().is_none_or(|name| *name == begun.name),
                Some(Kind::Ended(end)) => filter.committed.is_none_or(|committed| committed == end.committed),
                _ => true,
            })
        };
        let some =
            self.ended.iter().rev().filter(|(gtid, records)| {
                filter.before.is_none_or(|before| **gtid < before) && matches(records)
            });
        some.take(filter.limit).filter_map(|(gtid, _)| self.get_ended(*gtid)).collect()
    }

    /// Deletes at most `limit` transactions that ended before this; answers how many.
    pub(super) fn purge(&mut self, before: UnixMillis, limit: usize) -> usize {
        let is_old = |records: &[(UnixMillis, Record)]| {
            records.iter().any(|(at, record)| matches!(record.kind, Some(Kind::Ended(_))) && *at < before)
        };
        let old = self.ended.iter().filter(|(_, records)| is_old(records));
        let old: Vec<Gtid> = old.map(|(gtid, _)| *gtid).take(limit).collect();
        for gtid in &old {
            self.ended.remove(gtid);
            self.keys.retain(|_, owner| owner != gtid);
        }
        old.len()
    }

    /// How many transactions have not ended.
    pub(crate) fn unended(&self) -> usize {
        self.live.len()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    // ---- keys ----

    /// Takes a key from a transaction that never came to be.
    pub(super) fn pass_key(&mut self, key: &str, gone: Gtid, gtid: Gtid) {
        if let Some(owner) = self.keys.get_mut(key).filter(|owner| **owner == gone) {
            *owner = gtid;
        }
    }

    /// Gives a key to the first that asks.
    pub(super) fn take_key(&mut self, key: &str, gtid: Gtid) {
        self.keys.entry(key.to_owned()).or_insert(gtid);
    }

    pub(super) fn find_key(&self, key: &str) -> Option<Gtid> {
        self.keys.get(key).copied()
    }
}

fn stored(gtid: Gtid, log: &Log) -> Stored {
    Stored { gtid, records: log.values().cloned().collect() }
}
