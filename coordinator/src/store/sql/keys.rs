//! Idempotency keys.

use concord_protocol::Gtid;

use super::link::Link;
use super::{Problem, digest, reader};

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
