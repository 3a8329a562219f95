//! Stored records, as an engine finds them when it starts: whatever a damaged store, or another version, has left.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bolero::{TypeGenerator, check};
use bytes::Bytes;
use concord_coordinator::engine::{
    Backoff, BranchCall, CallResult, Engine, EngineError, Participants, Settings,
};
use concord_coordinator::store::{Durability, Entry, MemoryStore, Store as _, StoreError, UnixMillis};
use concord_proto::store::{self, Record, record::Kind};
use concord_proto::v1::BranchKind;
use concord_protocol::{Decision, Epoch, Gtid, Outcome, Reply, Verb};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use prost::Message as _;

use crate::damage::Damage;

/// A record as some run may have written it.
#[derive(Debug, Clone, TypeGenerator)]
enum Line {
    Registered {
        branch: u8,
        kind: u8,
    },
    Delegated {
        branch: u8,
    },
    Decided {
        commit: bool,
        branches: [bool; 3],
        other: u8,
    },
    BranchEnded {
        branch: u8,
        committed: bool,
        source: u8,
        heuristic: bool,
    },
    BranchParked {
        branch: u8,
    },
    Retried,
    /// Ended, begun a second time, or of a kind that is not known.
    Odd(u8),
}

#[derive(Debug, Clone, TypeGenerator)]
pub(crate) struct Log {
    /// Of the branches that came with the request; none: its initiator drives.
    kinds: Vec<bool>,
    lines: [Line; 4],
    /// So many of them: few are sooner right.
    length: u8,
    ended: u8,
    damaged: Option<(u8, Damage)>,
}

impl Log {
    fn records(&self) -> Vec<Record> {
        let begun = || {
            let kinds = self.kinds.iter().take(3).enumerate();
            let branches = kinds.map(|(index, tcc)| spec(index as u32 + 1, if *tcc { 2 } else { 1 }));
            Kind::Begun(store::Begun { branches: branches.collect(), ..Default::default() })
        };
        let end = self.ended.is_multiple_of(4).then(|| Some(ended(self.ended.is_multiple_of(8))));
        let lines =
            self.lines.iter().take(usize::from(self.length % 5)).map(|line| line.kind(begun)).chain(end);
        let mut records: Vec<_> =
            [Some(begun())].into_iter().chain(lines).map(|kind| Record { kind }).collect();
        if let Some((place, damage)) = &self.damaged {
            let place = usize::from(*place) % records.len();
            let bytes = damage.apply(records[place].encode_to_vec());
            match Record::decode(bytes.as_slice()) {
                Ok(record) => records[place] = record,
                // The store's own business: see `rows`.
                Err(_) => records.truncate(place),
            }
        }
        records
    }
}

impl Line {
    fn kind(&self, begun: impl Fn() -> Kind) -> Option<Kind> {
        // Most often one of three.
        let id = |branch: &u8| if *branch < 16 { u32::from(*branch) } else { u32::from(branch % 3) + 1 };
        Some(match self {
            Line::Registered { branch, kind } => {
                Kind::Registered(store::Registered { branch: Some(spec(id(branch), i32::from(kind % 4))) })
            }
            Line::Delegated { branch } => Kind::Delegated(store::Delegated { branch_id: id(branch) }),
            Line::Decided { commit, branches, other } => {
                let told = (1..).zip(branches).filter(|(_, told)| **told).map(|(id, _)| id);
                let branches = told.chain((*other < 16).then_some(u32::from(*other))).collect();
                Kind::Decided(store::Decided { commit: *commit, branches, reason: String::new() })
            }
            Line::BranchEnded { branch, committed, source, heuristic } => {
                Kind::BranchEnded(store::BranchEnded {
                    branch_id: id(branch),
                    committed: *committed,
                    source: i32::from(source % 5),
                    heuristic: *heuristic,
                    ..Default::default()
                })
            }
            Line::BranchParked { branch } => {
                Kind::BranchParked(store::BranchParked { branch_id: id(branch), ..Default::default() })
            }
            Line::Retried => Kind::Retried(store::Retried::default()),
            Line::Odd(number) => match number % 8 {
                0 => begun(),
                1 => return None,
                number => ended(number % 2 == 0),
            },
        })
    }
}

fn ended(committed: bool) -> Kind {
    Kind::Ended(store::Ended { committed, ..Default::default() })
}

fn spec(branch_id: u32, kind: i32) -> store::BranchSpec {
    let participant = format!("http://127.0.0.1:{}", 7_000 + branch_id);
    store::BranchSpec { branch_id, kind, participant, action: "work".into(), ..Default::default() }
}

/// They do what they are told, and note it.
#[derive(Default)]
struct Obedient {
    calls: Mutex<Vec<Verb>>,
}

struct Actors(Arc<Obedient>);

impl Participants for Actors {
    fn call(&self, call: BranchCall) -> BoxFuture<'static, CallResult> {
        self.0.calls.lock().unwrap().push(call.verb);
        let outcome = match call.verb {
            Verb::Rollback | Verb::Cancel => Outcome::RolledBack,
            _ => Outcome::Committed,
        };
        std::future::ready(CallResult {
            reply: Reply::Ended(outcome),
            reason: String::new(),
            payload: Bytes::new(),
        })
        .boxed()
    }

    fn permits(&self, _: &str) -> bool {
        true
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        live_transactions_max: 100,
        branches_max: 5,
        payload_bytes_max: 1_000,
        timeout_default: Duration::from_secs(30),
        timeout_max: Duration::from_secs(86_400),
        backoff: Backoff { first: Duration::from_millis(50), max: Duration::from_secs(30) },
        park_after_attempts: Some(3),
        tenants: Default::default(),
    }
}

/// A runtime whose clock jumps to whatever is waited for.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// The engine starts on a log that a run can have written, and does what that says; on any other it does not start,
/// and names the transaction. It never commits what is not decided, and never does the one after the other.
#[test]
fn a_log_is_carried_out_or_refused() {
    check!().with_type::<Log>().for_each(|log| runtime().block_on(carry_out(log)));
}

async fn carry_out(log: &Log) {
    let records = log.records();
    let gtid = Gtid::compose(1_700_000_000_000, Epoch(1), 1);
    let written = MemoryStore::new();
    let entry = |record: &Record| Entry { gtid, at: UnixMillis(1_700_000_000_000), record: record.clone() };
    written.append(records.iter().map(entry).collect(), Durability::Forced).await.unwrap();
    let actors = Arc::<Obedient>::default();
    let store = Arc::new(written.crash(0));
    let engine = match Engine::start(store, Arc::new(Actors(Arc::clone(&actors))), settings()).await {
        Ok(engine) => engine,
        Err(error) => return assert_names(&error, gtid),
    };
    // More than all the retries there are.
    tokio::time::sleep(Duration::from_secs(600)).await;
    let decided = records.iter().find_map(|record| match &record.kind {
        Some(Kind::Decided(decided)) => Some(decided.commit),
        Some(Kind::Ended(ended)) => Some(ended.committed),
        _ => None,
    });
    let delegated = records.iter().any(|record| matches!(record.kind, Some(Kind::Delegated(_))));
    match engine.get(gtid).await {
        Ok((snapshot, history)) => {
            assert!(!is_contradictory(&records), "{records:?}");
            let expected = match decided {
                Some(true) => Decision::Commit,
                Some(false) | None => Decision::Rollback,
            };
            assert!(delegated || snapshot.decision() == Some(expected), "{snapshot:?}");
            assert!(snapshot.state.is_terminal() || snapshot.parked, "{snapshot:?}");
            assert!(history.len() >= records.len());
        }
        // Ended, and never loaded; or there is nothing.
        Err(EngineError::Store(error)) => assert_names(&error, gtid),
        Err(error) => assert!(records.is_empty(), "{error}"),
    }
    let calls = actors.calls.lock().unwrap();
    let commits = calls.iter().any(|verb| matches!(verb, Verb::Commit | Verb::Confirm));
    let rollbacks = calls.iter().any(|verb| matches!(verb, Verb::Rollback | Verb::Cancel));
    assert!(!commits || decided == Some(true), "{calls:?}");
    assert!(!rollbacks || decided != Some(true), "{calls:?}");
    // Phase one is over for ever.
    assert!(
        calls.iter().all(|verb| matches!(verb, Verb::Commit | Verb::Confirm | Verb::Rollback | Verb::Cancel))
    );
}

/// What no run can have written, whatever else there is: it must not be guessed at.
fn is_contradictory(records: &[Record]) -> bool {
    let (mut begun, mut decided, mut branches) = (0, 0, 0);
    for record in records {
        match &record.kind {
            None => return true,
            Some(Kind::Begun(one)) => {
                begun += 1;
                branches = one.branches.len();
            }
            Some(Kind::Registered(_)) => branches += 1,
            Some(Kind::Decided(one)) => {
                decided += 1;
                let known = |id: &u32| (1..=branches).contains(&(*id as usize));
                if one.commit && one.branches.is_empty() || !one.branches.iter().all(known) {
                    return true;
                }
            }
            _ => {}
        }
    }
    begun != 1 || decided > 1
}

fn assert_names(error: &StoreError, gtid: Gtid) {
    assert!(matches!(error, StoreError::Corrupt { gtid: named, .. } if *named == gtid), "{error}");
}

/// Bytes are a record or none; what is read is written again as the same.
#[test]
fn bytes_are_a_record_or_none() {
    check!().with_type::<(Log, Damage)>().for_each(|(log, damage)| {
        for record in log.records() {
            let Ok(read) = Record::decode(damage.apply(record.encode_to_vec()).as_slice()) else { continue };
            assert_eq!(Record::decode(read.encode_to_vec().as_slice()), Ok(read));
        }
    });
}

#[test]
fn the_kinds_are_those_of_the_interface() {
    assert_eq!((BranchKind::Xa as i32, BranchKind::Tcc as i32), (1, 2));
}
