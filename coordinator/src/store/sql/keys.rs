//! Idempotency keys.

use concord_protocol::{Epoch, Gtid};

use super::link::Link;
use super::{Problem, digest, reader};

/// A key whose transaction is not on record this long after what is purged never will be, in milliseconds.
const NEVER_BEGUN_MS: i64 = 3_600_000;

/// Gives the key to `gtid` if nobody has it, or only `gone`; answers who has it. Every try answers the same.
pub(super) async fn claim(
    link: &mut Link,
    key: &str,
    gtid: Gtid,
    gone: Option<Gtid>,
) -> Result<Gtid, Problem> {
    let dialect = link.dialect();
    let (digest, id) = (dialect.bytes(&digest(key)), dialect.bytes(&gtid.to_bytes()));
    if let Some(gone) = gone {
        let gone = dialect.bytes(&gone.to_bytes());
        let sql = format!("UPDATE concord_keyed SET gtid = {id} WHERE digest = {digest} AND gtid = {gone}");
        link.execute(sql).await?;
    }
    // Between the two it may be purged; then nobody has it, and it is tried again.
    loop {
        link.execute(dialect.insert_keys(&format!("({digest}, {id})"))).await?;
        let sql = format!("SELECT gtid FROM concord_keyed WHERE digest = {digest}");
        if let Some(found) = link.query(sql, |row| row.bytes(0)).await?.pop() {
            return reader::gtid_of(found);
        }
    }
}

/// The transaction that has this key.
pub(super) async fn find(link: &mut Link, key: &str) -> Result<Option<Gtid>, Problem> {
    let digest = link.dialect().bytes(&digest(key));
    let sql = format!("SELECT gtid FROM concord_keyed WHERE digest = {digest}");
    link.query(sql, |row| row.bytes(0)).await?.pop().map(reader::gtid_of).transpose()
}

/// Deletes at most `limit` keys that were claimed long before `before`, in milliseconds since the Unix epoch, and whose
/// transactions never came to be.
pub(super) async fn purge(link: &mut Link, before: i64, limit: usize) -> Result<(), Problem> {
    let oldest = u64::try_from(before.saturating_sub(NEVER_BEGUN_MS)).unwrap_or_default();
    let dialect = link.dialect();
    let sql = format!(
        "SELECT k.gtid FROM concord_keyed AS k WHERE k.gtid < {} \
         AND NOT EXISTS (SELECT 1 FROM concord_record AS r WHERE r.gtid = k.gtid) \
         AND NOT EXISTS (SELECT 1 FROM concord_ended AS e WHERE e.gtid = k.gtid) LIMIT {limit}",
        dialect.bytes(&Gtid::compose(oldest, Epoch(0), 0).to_bytes())
    );
    let gtids = link.query(sql, |row| Ok(dialect.bytes(&row.bytes(0)?))).await?;
    if !gtids.is_empty() {
        link.execute(format!("DELETE FROM concord_keyed WHERE gtid IN ({})", gtids.join(", "))).await?;
    }
    Ok(())
}
