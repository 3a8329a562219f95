//! What a batch of appends changes, worked out before anything is sent.

use std::collections::{HashMap, HashSet};

use concord_protocol::{Epoch, Gtid};

use super::digest;
use super::link::Dialect;
use crate::store::queue::Append;
use crate::store::recent::{Recent, Rows};
use crate::store::row::{Mark, StoredRow, checksum};

/// What the writer knows without asking. Transactions that were taken over are not among it; they are read.
#[derive(Debug)]
pub(super) struct Known {
    epoch: Epoch,
    /// Live transactions of this epoch.
    live: HashSet<[u8; 16]>,
    /// The newest transaction of this epoch.
    newest: Option<[u8; 16]>,
    recent: Recent,
}

/// All that happens to one transaction.
#[derive(Debug)]
struct Change {
    gtid: Gtid,
    was_live: bool,
    /// Of this epoch, and newer than all that it has had: nothing of it is stored.
    is_new: bool,
    rows: Vec<(StoredRow, Mark)>,
}

impl Change {
    /// When it ends, and whether it commits.
    fn end(&self) -> Option<(i64, bool)> {
        self.rows.iter().find_map(|(row, mark)| match mark {
            Mark::Ended { committed } => Some((row.at, *committed)),
            _ => None,
        })
    }
}

/// What a batch changes.
#[derive(Debug)]
pub(super) struct Batch {
    changes: Vec<Change>,
}

/// What has to be read before a batch can be written.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// The log of these, which end.
    pub(super) logged: Vec<[u8; 16]>,
    /// These, in case that they have ended before.
    pub(super) ended: Vec<[u8; 16]>,
}

impl Wanted {
    pub(super) fn is_empty(&self) -> bool {
        self.logged.is_empty() && self.ended.is_empty()
    }
}

/// What was read of it.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) logged: HashMap<[u8; 16], Rows>,
    /// Encoded records.
    pub(super) ended: HashMap<[u8; 16], Vec<u8>>,
}

impl Known {
    pub(super) fn new(epoch: Epoch) -> Self {
        Known { epoch, live: HashSet::new(), newest: None, recent: Recent::default() }
    }

    /// A batch has been written.
    pub(super) fn learn(&mut self, batch: Batch) {
        for change in batch.changes {
            let gtid = change.gtid.to_bytes();
            if change.gtid.epoch() == self.epoch {
                self.newest = self.newest.max(Some(gtid));
            }
            if change.end().is_some() {
                self.live.remove(&gtid);
                self.recent.take(gtid);
                continue;
            }
            if !change.was_live && !change.is_new {
                continue;
            }
            let mut is_first = self.live.insert(gtid);
            for (row, mark) in change.rows {
                self.recent.add(gtid, row, &mark, is_first);
                is_first = false;
            }
        }
    }
}

impl Batch {
    /// Of these appends, whose first row has the number `seq` of this term.
    pub(super) fn of(appends: &[Append], known: &Known, term: i64, seq: i64) -> Batch {
        let (mut changes, mut places) = (Vec::<Change>::new(), HashMap::new());
        for (row, seq) in appends.iter().flat_map(|append| &append.rows).zip(seq..) {
            let gtid = row.gtid.to_bytes();
            let place = *places.entry(gtid).or_insert_with(|| {
                let was_live = known.live.contains(&gtid);
                let is_new = row.gtid.epoch() == known.epoch && known.newest < Some(gtid);
                changes.push(Change { gtid: row.gtid, was_live, is_new, rows: Vec::new() });
                changes.len() - 1
            });
            let crc = checksum(row.gtid, term, seq, row.at, &row.body).into();
            let stored = StoredRow { epoch: term, seq, at: row.at, crc, body: row.body.clone() };
            changes[place].rows.push((stored, row.mark.clone()));
        }
        Batch { changes }
    }

    pub(super) fn wants(&self, known: &Known) -> Wanted {
        let mut wanted = Wanted::default();
        for change in &self.changes {
            let gtid = change.gtid.to_bytes();
            if change.end().is_some() && !change.is_new && known.recent.get(gtid).is_none() {
                wanted.logged.push(gtid);
            }
            if !change.was_live && !change.is_new {
                wanted.ended.push(gtid);
            }
        }
        wanted
    }

    /// The statements, each with a semicolon after it.
    pub(super) fn sql(&self, known: &Known, found: &Found, dialect: Dialect) -> String {
        let mut sql = Sql::new(dialect);
        for change in &self.changes {
            let gtid = change.gtid.to_bytes();
            match (found.ended.get(&gtid), change.end()) {
                (Some(records), _) => sql.add_to_ended(change, records),
                (None, Some((at, committed))) => {
                    let before = known.recent.get(gtid).or_else(|| found.logged.get(&gtid));
                    sql.end(change, before.cloned().unwrap_or_default(), at, committed);
                }
                (None, None) => sql.log(change),
            }
        }
        sql.finish()
    }
}

/// Statements in the making: a few, each of many rows.
struct Sql {
    dialect: Dialect,
    logged: Vec<String>,
    ended: Vec<String>,
    keyed: Vec<String>,
    gone: Vec<String>,
    forgotten: Vec<String>,
    others: Vec<String>,
}

impl Sql {
    fn new(dialect: Dialect) -> Sql {
        let none = Vec::new;
        Sql {
            dialect,
            logged: none(),
            ended: none(),
            keyed: none(),
            gone: none(),
            forgotten: none(),
            others: none(),
        }
    }

    fn id(&self, change: &Change) -> String {
        self.dialect.bytes(&change.gtid.to_bytes())
    }

    fn name(&self, name: &str) -> String {
        match name.is_empty() {
            true => "NULL".to_owned(),
            false => self.dialect.bytes(&digest(name)),
        }
    }

    fn log(&mut self, change: &Change) {
        let (id, issuer) = (self.id(change), change.gtid.epoch().0);
        for (StoredRow { epoch: term, seq, at, crc, body }, _) in &change.rows {
            let body = self.dialect.bytes(body);
            self.logged.push(format!("({id}, {term}, {seq}, {issuer}, {at}, {crc}, {body})"));
        }
        self.key(change);
    }

    fn end(&mut self, change: &Change, mut rows: Rows, at: i64, committed: bool) {
        let id = self.id(change);
        for (row, mark) in &change.rows {
            rows.push(row.clone(), mark);
        }
        let (name, records) = (self.name(&rows.name), self.dialect.bytes(&rows.encoded));
        self.ended.push(format!("({id}, {}, {at}, {name}, {records})", i64::from(committed)));
        if !change.is_new {
            self.gone.push(id);
        }
        self.key(change);
    }

    /// What comes after the end is kept with it.
    fn add_to_ended(&mut self, change: &Change, records: &[u8]) {
        let mut rows = Rows { name: String::new(), encoded: records.to_vec() };
        let begins = change.rows.iter().any(|(_, mark)| matches!(mark, Mark::Begun { .. }));
        for (row, mark) in &change.rows {
            rows.push(row.clone(), mark);
        }
        let (id, records) = (self.id(change), self.dialect.bytes(&rows.encoded));
        let name = if begins { format!(", name = {}", self.name(&rows.name)) } else { String::new() };
        self.others.push(format!("UPDATE concord_ended SET records = {records}{name} WHERE gtid = {id}"));
        self.key(change);
    }

    /// The key with which it begins, the last time that it does.
    fn key(&mut self, change: &Change) {
        let begun = change.rows.iter().enumerate().rev().find_map(|(place, (_, mark))| match mark {
            Mark::Begun { key, .. } => Some((place, key)),
            _ => None,
        });
        let Some((place, key)) = begun else { return };
        let id = self.id(change);
        if place > 0 || !change.is_new {
            self.forgotten.push(id.clone());
        }
        if let Some(key) = key {
            self.keyed.push(format!("({}, {id})", self.dialect.bytes(&digest(key))));
        }
    }

    fn finish(mut self) -> String {
        let list = |some: &[String]| some.join(", ");
        let mut all = Vec::new();
        let mut add = |some: &[String], before: &str, after: &str| {
            if !some.is_empty() {
                all.push(format!("{before}{}{after}", list(some)));
            }
        };
        add(
            &self.logged,
            "INSERT INTO concord_record (gtid, term, seq, issuer, at_ms, crc, body) VALUES ",
            "",
        );
        add(&self.gone, "DELETE FROM concord_record WHERE gtid IN (", ")");
        add(&self.ended, "INSERT INTO concord_ended (gtid, committed, ended_at, name, records) VALUES ", "");
        add(&self.forgotten, "DELETE FROM concord_keyed WHERE gtid IN (", ")");
        if !self.keyed.is_empty() {
            all.push(self.dialect.insert_keys(&list(&self.keyed)));
        }
        all.append(&mut self.others);
        all.into_iter().flat_map(|statement| [statement, "; ".to_owned()]).collect()
    }
}
