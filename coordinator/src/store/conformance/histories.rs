//! Random histories of appends, purges and crashes, compared with a model that is obviously right.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// Appends these, and waits for it, or does not.
    Append {
        entries: Vec<Entry>,
        forced: bool,
        wait: bool,
    },
    Purge {
        before: u64,
        limit: usize,
    },
    Crash(Crash),
    Reopen,
}

/// How many transactions a history is about: few, so that much happens to each.
const TRANSACTIONS: u64 = 6;

fn any_entry() -> impl Strategy<Value = Entry> {
    let n = 0..TRANSACTIONS;
    prop_oneof![
        2 => (n.clone(), "[ab]?", "[kl]?").prop_map(|(n, name, key)| begun(n, &name, &key)),
        3 => (n.clone(), 0..9u32).prop_map(|(n, branch)| registered(n, branch)),
        2 => (n.clone(), any::<bool>()).prop_map(|(n, commit)| decided(n, commit)),
        2 => (n, 0..20u64, any::<bool>()).prop_map(|(n, at, committed)| ended(n, at, committed)),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let entries = prop::collection::vec(any_entry(), 0..5);
    prop_oneof![
        12 => (entries, any::<bool>(), any::<bool>())
            .prop_map(|(entries, forced, wait)| Step::Append { entries, forced, wait }),
        1 => (0..20u64, 0..4usize).prop_map(|(before, limit)| Step::Purge { before, limit }),
        1 => any::<u8>().prop_map(|part| Step::Crash(Crash::Power(part))),
        1 => Just(Step::Crash(Crash::Kill)),
        1 => Just(Step::Reopen),
    ]
}

/// What a store should hold: the records, and nothing that is derived from them.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model(BTreeMap<Gtid, Vec<(UnixMillis, Record)>>);

impl Model {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Append { entries, .. } => {
                for entry in entries {
                    self.0.entry(entry.gtid).or_default().push((entry.at, entry.record.clone()));
                }
            }
            Step::Purge { before, limit } => {
                let mut ended: Vec<_> =
                    self.0.keys().filter_map(|gtid| Some((self.end(gtid)?.0, *gtid))).collect();
                ended.retain(|(at, _)| *at < UnixMillis(*before));
                ended.sort();
                for (_, gtid) in ended.iter().take(*limit) {
                    self.0.remove(gtid);
                }
            }
            Step::Crash(_) | Step::Reopen => {}
        }
    }

    fn end(&self, gtid: &Gtid) -> Option<(UnixMillis, bool)> {
        self.0[gtid].iter().find_map(|(at, record)| match &record.kind {
            Some(Kind::Ended(ended)) => Some((*at, ended.committed)),
            _ => None,
        })
    }

    /// The last beginning counts.
    fn begun(&self, gtid: &Gtid) -> Option<&Begun> {
        self.0[gtid].iter().rev().find_map(|(_, record)| match &record.kind {
            Some(Kind::Begun(begun)) => Some(begun),
            _ => None,
        })
    }

    async fn read(store: &impl Store) -> Self {
        let mut model = Model::default();
        for n in 0..TRANSACTIONS {
            if let Some(stored) = store.get(gtid(n)).await.unwrap() {
                model.0.insert(stored.gtid, stored.records);
            }
        }
        model
    }

    /// Asks the store everything else, and expects what follows from the records.
    async fn compare<S: Subject>(&self, store: &S::Store) {
        let stored = |gtid: &Gtid| Stored { gtid: *gtid, records: self.0[gtid].clone() };
        let live: Vec<_> = self.0.keys().filter(|gtid| self.end(gtid).is_none()).map(stored).collect();
        assert_eq!(store.load_live().await.unwrap(), live);
        for committed in [None, Some(true), Some(false)] {
            for name in [None, Some("a"), Some("")] {
                let ended: Vec<_> = (self.0.keys().rev())
                    .filter(|gtid| {
                        self.end(gtid).is_some_and(|(_, is)| committed.is_none_or(|wanted| wanted == is))
                    })
                    .filter(|gtid| {
                        let own = self.begun(gtid).map_or("", |begun| begun.name.as_str());
                        name.is_none_or(|name| name == own)
                    })
                    .map(stored)
                    .collect();
                let filter = Filter { committed, name: name.map(str::to_owned), ..all() };
                assert_eq!(store.list_ended(filter.clone()).await.unwrap(), ended, "{filter:?}");
            }
        }
        for key in ["k", "l"] {
            let has_it = |gtid: &&Gtid| self.begun(gtid).is_some_and(|begun| begun.idempotency_key == key);
            let found = store.find_key(key.into()).await.unwrap();
            match S::KEYS_ARE_CLAIMED {
                false => assert_eq!(found, self.0.keys().find(has_it).copied(), "key {key}"),
                // The first to come, which may be gone.
                true => assert!(found.is_none_or(|found| has_it(&&found)), "key {key}: {found:?}"),
            }
        }
    }
}

async fn run_one<S: Subject>(steps: Vec<Step>) {
    let (mut medium, mut store) = S::create();
    // Every state that the store may be found in after a crash now, oldest first. The last one is the present.
    let mut possible = vec![Model::default()];
    for step in steps {
        let mut next = possible[possible.len() - 1].clone();
        next.apply(&step);
        match step {
            Step::Append { entries, forced, wait } => {
                possible.push(next);
                let append =
                    store.append(entries, if forced { Durability::Forced } else { Durability::Lazy });
                if wait {
                    append.await.unwrap();
                    if forced {
                        possible.drain(..possible.len() - 1);
                    }
                }
            }
            Step::Purge { before, limit } => {
                let gone = possible[possible.len() - 1].0.len() - next.0.len();
                possible.push(next);
                assert_eq!(store.purge(UnixMillis(before), limit).await.unwrap(), gone);
            }
            Step::Crash(how) => {
                (medium, store) = medium.crash(store, how);
                let found = Model::read(&store).await;
                assert!(possible.contains(&found), "{how:?} left {found:#?}\n, none of {possible:#?}");
                possible = vec![found];
            }
            Step::Reopen => {
                store.close().await.unwrap();
                store = medium.reopen(store);
                possible.drain(..possible.len() - 1);
                assert_eq!(Model::read(&store).await, possible[0]);
            }
        }
    }
    store.append(vec![], Durability::Forced).await.unwrap();
    let last = &possible[possible.len() - 1];
    assert_eq!(Model::read(&store).await, *last);
    last.compare::<S>(&store).await;
}

pub(super) fn run_all<S: Subject>() {
    let config =
        ProptestConfig { cases: S::HISTORIES, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in prop::collection::vec(any_step(), 1..40))| run(run_one::<S>(steps)));
}
