//! Records of a transaction of two branches, and stores full of such as have ended.

use std::path::Path;

use anyhow::{Context as _, Result};
use concord_coordinator::store::{Durability, Entry, SqliteStore, Store, UnixMillis};
use concord_proto::store::{Begun, BranchSpec, Decided, Ended, Record, record::Kind};
use concord_proto::v1::BranchKind;
use concord_protocol::Gtid;

/// The name of all transactions that [`fill`] makes.
pub(crate) const NAME: &str = "history";
/// So many are appended at once.
const STEP: u64 = 2_000;

pub(crate) fn begun() -> Kind {
    let branch = |branch_id| BranchSpec {
        branch_id,
        kind: BranchKind::Tcc.into(),
        participant: format!("http://127.0.0.1:710{branch_id}"),
        action: "nothing".into(),
        payload: Vec::from(*b"{\"sku\":\"T00101\",\"quantity\":2}").into(),
        ..BranchSpec::default()
    };
    Kind::Begun(Begun {
        name: NAME.into(),
        timeout_ms: 30_000,
        branches: (1..=2).map(branch).collect(),
        ..Begun::default()
    })
}

pub(crate) fn decided() -> Kind {
    Kind::Decided(Decided { commit: true, branches: vec![1, 2], ..Decided::default() })
}

pub(crate) fn ended() -> Kind {
    Kind::Ended(Ended { committed: true, ..Ended::default() })
}

/// An idempotency key that nobody has had.
pub(crate) fn new_key() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Makes a store in `directory` with so many transactions that were begun and committed, each with an idempotency key,
/// one a millisecond, the last of them at `until`.
///
/// # Errors
/// When the store fails.
pub(crate) async fn fill(directory: &Path, count: u64, until: UnixMillis) -> Result<()> {
    let store = SqliteStore::open(directory)?;
    let first = until.0.checked_sub(count).context("so long ago there were no computers")?;
    let mut under_way = None;
    for start in (0..count).step_by(STEP as usize) {
        let numbers = start..count.min(start + STEP);
        let entries = numbers.flat_map(|number| transaction(UnixMillis(first + number), &store)).collect();
        // The next ones are made while these are written.
        if let Some(before) = under_way.replace(store.append(entries, Durability::Lazy)) {
            before.await?;
        }
    }
    store.close().await?;
    Ok(())
}

fn transaction(at: UnixMillis, store: &SqliteStore) -> [Entry; 3] {
    let gtid = Gtid::compose(at.0, store.epoch(), 0);
    let mut begun = begun();
    if let Kind::Begun(begun) = &mut begun {
        begun.idempotency_key = new_key();
    }
    [begun, decided(), ended()].map(|kind| Entry { gtid, at, record: Record { kind: Some(kind) } })
}
