//! The barrier table's rows, for purging.

use concord_crash_points::crash_point;
use concord_protocol::Gtid;

use super::barrier::Barrier;
use crate::local::{LocalDatabase, LocalError, LocalTransaction, SqlValue};
use crate::purge::STEP_ROWS;

impl<D: LocalDatabase> Barrier<D> {
    /// The newest gtid in the table.
    pub(crate) async fn newest(&self) -> Result<Option<Gtid>, LocalError> {
        let sql = format!("SELECT MAX(gtid) FROM {}", self.table);
        Ok(self.gtids(&sql, Vec::new()).await?.pop())
    }

    /// The next few gtids in the table, in order, after one and before another.
    pub(crate) async fn page(&self, after: Option<Gtid>, before: Gtid) -> Result<Vec<Gtid>, LocalError> {
        let sql = format!(
            "SELECT gtid FROM {} WHERE gtid > ? AND gtid < ? ORDER BY gtid LIMIT {STEP_ROWS}",
            self.table
        );
        let after = after.map_or([0; 16], Gtid::to_bytes);
        let mut gtids = self.gtids(&sql, vec![after.into(), before.to_bytes().into()]).await?;
        gtids.dedup();
        Ok(gtids)
    }

    /// Deletes the rows of transactions. Answers how many.
    pub(crate) async fn forget(&self, gtids: Vec<Gtid>) -> Result<u64, LocalError> {
        let marks = vec!["?"; gtids.len()].join(", ");
        let sql = format!("DELETE FROM {} WHERE gtid IN ({marks})", self.table);
        let params = gtids.into_iter().map(|gtid| gtid.to_bytes().into()).collect();
        let (transaction, deleted) = self.database.begin_with(&sql, params).await?;
        crash_point!("participant/purge/deleted");
        transaction.commit().await?;
        crash_point!("participant/purge/committed");
        Ok(deleted)
    }

    async fn gtids(&self, sql: &str, params: Vec<SqlValue>) -> Result<Vec<Gtid>, LocalError> {
        let mut transaction = self.database.begin().await?;
        let rows = transaction.query(sql, params).await?;
        transaction.rollback().await?;
        let gtid = |row: Vec<SqlValue>| {
            let bytes = row.first()?.as_bytes()?.try_into().ok()?;
            Gtid::from_bytes(bytes).ok()
        };
        // What is no gtid was not written by us, and stays.
        Ok(rows.into_iter().filter_map(gtid).collect())
    }
}
