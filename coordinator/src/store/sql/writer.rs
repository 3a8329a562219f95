//! The only thread that writes. What makes its commits right:
//!
//! - **Fencing.** Each SQL transaction begins with an update of this coordinator's own row, which must not have a
//!   successor. It holds that row until it ends, and whoever takes over writes its epoch into the same row: so a
//!   coordinator that has been taken over commits nothing any more, however late it wakes up.
//! - **Exactly once.** The same update counts the commits. Where a connection breaks, nobody knows whether the last commit
//!   was made; the next connection waits for that row, and sees it by the count.
//! - It tries again while its lease lasts, and not longer: then others may have taken over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use concord_proto::store::Record;
use concord_protocol::Epoch;
use prost::Message as _;

use super::batch::{Batch, Found, Known, Wanted};
use super::lease::Lease;
use super::link::{Address, Link, is_unmatched};
use super::reader::stored;
use super::{Faults, Problem, keys};
use crate::store::counts::Counts;
use crate::store::queue::{Append, Purge, Queue, Work};
use crate::store::recent::Rows;
use crate::store::row::{Mark, to_sql};
use crate::store::{Counters, StoreError};

/// One step of a purge deletes at most this many transactions; appends go between two steps.
const PURGE_STEP: usize = 64;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two lines in the log about the same.
const QUIET: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) queue: Arc<Queue>,
    pub(super) counts: Arc<Counts>,
    pub(super) faults: Arc<Faults>,
    pub(super) lease: Arc<Lease>,
    pub(super) address: Address,
    pub(super) idle_max_s: u64,
    pub(super) link: Option<Link>,
    pub(super) epoch: Epoch,
    /// Raised before anything that was taken over is handed out.
    pub(super) term: Arc<AtomicI64>,
    pub(super) known: Known,
    /// Of the next record.
    pub(super) seq: i64,
    /// Made so far.
    pub(super) commits: i64,
    pub(super) trouble: Trouble,
}

/// What the log is told of a store that does not answer: that it does not, once a second while that lasts, and that it does again.
#[derive(Default)]
pub(super) struct Trouble {
    /// Of what has been told and has not ended.
    since: Option<Instant>,
    told: Option<Instant>,
}

impl Trouble {
    fn goes_on(&mut self, problem: &Problem, now: Instant) {
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < QUIET) {
            return;
        }
        self.told = Some(now);
        self.since.get_or_insert(now);
        tracing::warn!(%problem, "the store could not be written; trying again");
    }

    fn is_over(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            let waited_ms = now.saturating_duration_since(since).as_millis() as u64;
            tracing::info!(waited_ms, "the store answers again");
        }
    }
}

impl Writer {
    /// Works until the store is closed.
    pub(super) fn run(mut self) {
        let runtime = self.runtime.clone();
        loop {
            match self.queue.take() {
                Work::Commit(appends) => runtime.block_on(self.commit(appends)),
                Work::Purge(purge) => runtime.block_on(self.purge(purge)),
                Work::Close(done) => {
                    let result = runtime.block_on(self.close());
                    drop(self);
                    let _ = done.send(result);
                    return;
                }
            }
        }
    }

    /// Commits a batch and answers those who wait for it.
    async fn commit(&mut self, appends: Vec<Append>) {
        let result = self.write(&appends).await;
        for append in appends {
            // Nobody waits any more: no matter, it is written.
            let _ = append.done.send(result.clone());
        }
    }

    async fn write(&mut self, appends: &[Append]) -> Result<(), StoreError> {
        if let Some(error) = self.queue.failure() {
            return Err(error);
        }
        let rows: usize = appends.iter().map(|append| append.rows.len()).sum();
        if rows == 0 {
            // What was appended before is committed, and a commit is durable.
            return Ok(());
        }
        let batch = Batch::of(appends, &self.known, self.term.load(Ordering::SeqCst), self.seq);
        let start = Instant::now();
        self.write_batch(&batch).await.map_err(|problem| self.queue.fail(problem.failed()))?;
        self.counts.measure_sync(start.elapsed());
        self.counts.measure_batch(rows);
        self.known.learn(batch);
        self.seq += rows as i64;
        // The database syncs each commit, forced or not.
        self.counts.add(Counters { syncs: 1, records: rows as u64, commits: 1 });
        Ok(())
    }

    /// Commits it, exactly once.
    async fn write_batch(&mut self, batch: &Batch) -> Result<(), Problem> {
        self.faults.commit()?;
        loop {
            let lease = Arc::clone(&self.lease);
            match lease.while_held(self.try_batch(batch)).await {
                Ok(()) => {
                    self.commits += 1;
                    self.trouble.is_over(Instant::now());
                    return Ok(());
                }
                Err(problem) if problem.may_pass() && self.lease.is_held() => {
                    self.trouble.goes_on(&problem, Instant::now());
                    self.link = None;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(problem) => return Err(problem),
            }
        }
    }

    async fn take_link(&mut self) -> Result<Link, Problem> {
        match self.link.take().filter(Link::is_fresh) {
            Some(link) => Ok(link),
            None => Ok(self.address.connect(self.idle_max_s).await?),
        }
    }

    async fn try_batch(&mut self, batch: &Batch) -> Result<(), Problem> {
        let mut link = self.take_link().await?;
        match self.fence_and_write(&mut link, batch).await {
            Err(Problem::Sql(error)) if is_unmatched(&error) => {
                self.see_why_not(&mut link, error).await?;
            }
            result => result?,
        }
        // Only a connection without an open transaction is used again.
        self.link = Some(link);
        Ok(())
    }

    /// In one round trip, if nothing has to be read.
    async fn fence_and_write(&self, link: &mut Link, batch: &Batch) -> Result<(), Problem> {
        let (epoch, commits, dialect) = (self.epoch.0, self.commits, link.dialect());
        let mut sql = format!(
            "BEGIN; {}; ",
            dialect.update_one(
                "concord_coordinator",
                "commits = commits + 1",
                &format!("epoch = {epoch} AND successor IS NULL AND commits = {commits}"),
            )
        );
        let wanted = batch.wants(&self.known);
        let mut found = Found::default();
        if !wanted.is_empty() {
            link.execute(std::mem::take(&mut sql)).await?;
            found = read(link, wanted).await?;
        }
        sql.push_str(&batch.sql(&self.known, &found, dialect));
        sql.push_str("COMMIT");
        link.execute(sql).await?;
        Ok(())
    }

    /// The own row is not as it should be: the last try was committed after all, or somebody has taken over.
    async fn see_why_not(&self, link: &mut Link, error: sqlx::Error) -> Result<(), Problem> {
        link.execute("ROLLBACK".to_owned()).await?;
        let sql =
            format!("SELECT commits, successor FROM concord_coordinator WHERE epoch = {}", self.epoch.0);
        let own = link.query(sql, |row| Ok((row.number(0)?, row.number_or_null(1)?))).await?.pop();
        match own {
            Some((_, Some(successor))) => Err(Problem::Fenced(successor)),
            Some((commits, None)) if commits == self.commits + 1 => Ok(()),
            // Something else fails in the same way.
            Some((commits, None)) if commits == self.commits => Err(error.into()),
            other => Err(Problem::Refused(format!("its row of epoch {} is {other:?}", self.epoch.0))),
        }
    }

    /// Deletes one step's worth, and queues the rest behind what waits.
    async fn purge(&mut self, mut purge: Purge) {
        let step = (purge.limit - purge.deleted).min(PURGE_STEP);
        let deleted = match self.queue.failure() {
            Some(error) => Err(error),
            None => self.purge_step(to_sql(purge.before), step).await,
        };
        match deleted {
            Err(error) => drop(purge.done.send(Err(error))),
            Ok(deleted) => {
                purge.deleted += deleted;
                if deleted < step || purge.deleted == purge.limit || self.queue.over().is_some() {
                    let _ = purge.done.send(Ok(purge.deleted));
                } else {
                    self.queue.purge(purge);
                }
            }
        }
    }

    /// Nothing is lost when it fails: it is tried again with the next purge.
    async fn purge_step(&mut self, before: i64, step: usize) -> Result<usize, StoreError> {
        if step == 0 {
            return Ok(0);
        }
        let result = self.try_purge(before, step).await;
        if result.is_err() {
            self.link = None;
        }
        result.map_err(|problem| StoreError::Read(problem.to_string().into()))
    }

    async fn try_purge(&mut self, before: i64, step: usize) -> Result<usize, Problem> {
        let mut link = self.take_link().await?;
        let dialect = link.dialect();
        let sql = format!(
            "SELECT gtid FROM concord_ended WHERE ended_at < {before} ORDER BY ended_at, gtid LIMIT {step}"
        );
        let gtids = link.query(sql, |row| Ok(dialect.bytes(&row.bytes(0)?))).await?;
        if !gtids.is_empty() {
            let gtids = gtids.join(", ");
            link.execute(format!(
                "BEGIN; DELETE FROM concord_ended WHERE gtid IN ({gtids}); \
                 DELETE FROM concord_keyed WHERE gtid IN ({gtids}); COMMIT"
            ))
            .await?;
        }
        if gtids.len() < step {
            keys::purge(&mut link, before, PURGE_STEP).await?;
        }
        self.link = Some(link);
        Ok(gtids.len())
    }

    /// Gives the lease back: others may take over at once.
    async fn close(&mut self) -> Result<(), StoreError> {
        if let Some(error) = self.queue.failure() {
            return Err(error);
        }
        let released = async {
            let mut link = self.take_link().await?;
            let sql = "UPDATE concord_coordinator SET expires_at = 0 WHERE successor IS NULL AND epoch =";
            link.execute(format!("{sql} {}", self.epoch.0)).await?;
            link.close().await?;
            Ok::<_, Problem>(())
        };
        // All is written. That the lease runs out by itself then takes a little longer, and no more.
        if let Err(problem) = released.await {
            tracing::warn!(%problem, "the lease could not be given back");
        }
        Ok(())
    }
}

impl Drop for Writer {
    /// Also when the thread panics: nobody must wait for ever.
    fn drop(&mut self) {
        if self.queue.over().is_none() {
            self.queue.fail(StoreError::Failed("its writer ended unexpectedly".into()));
        }
    }
}

async fn read(link: &mut Link, wanted: Wanted) -> Result<Found, Problem> {
    let dialect = link.dialect();
    let list =
        |gtids: &[[u8; 16]]| gtids.iter().map(|gtid| dialect.bytes(gtid)).collect::<Vec<_>>().join(", ");
    let mut found = Found::default();
    if !wanted.logged.is_empty() {
        let sql = format!(
            "SELECT term, seq, at_ms, crc, body, gtid FROM concord_record WHERE gtid IN ({}) ORDER BY gtid, term, seq",
            list(&wanted.logged)
        );
        let mut logged = HashMap::<[u8; 16], Rows>::new();
        for (gtid, row) in link.query(sql, |row| Ok((row.bytes(5)?, stored(row)?))).await? {
            let gtid = super::reader::gtid_of(gtid)?.to_bytes();
            let mark = Record::decode(row.body.as_slice()).map_or(Mark::Exists, |record| Mark::of(&record));
            logged.entry(gtid).or_default().push(row, &mark);
        }
        found.logged = logged;
    }
    if !wanted.ended.is_empty() {
        let sql = format!("SELECT gtid, records FROM concord_ended WHERE gtid IN ({})", list(&wanted.ended));
        for (gtid, records) in link.query(sql, |row| Ok((row.bytes(0)?, row.bytes(1)?))).await? {
            found.ended.insert(super::reader::gtid_of(gtid)?.to_bytes(), records);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logged::logged;

    #[test]
    fn a_store_that_does_not_answer_is_told_of_once_a_second_and_so_is_its_end() {
        let (mut trouble, start) = (Trouble::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let log = logged(|| {
            trouble.is_over(at(0));
            (0..50).for_each(|n| trouble.goes_on(&Problem::Silent, at(50 * n)));
            trouble.is_over(at(2500));
            trouble.is_over(at(2600));
            // So soon afterwards that it is the same.
            trouble.goes_on(&Problem::Silent, at(2700));
            trouble.is_over(at(2750));
            trouble.goes_on(&Problem::Silent, at(9000));
        });
        let lines: Vec<_> = log.lines().collect();
        assert_eq!(lines.len(), 5, "{log}");
        for (line, level, told) in [
            (0, "WARN", "problem=its database does not answer"),
            (1, "WARN", "the store could not be written"),
            (2, "WARN", "trying again"),
            (3, "INFO", "the store answers again waited_ms=2500"),
            (4, "WARN", "trying again"),
        ] {
            assert!(lines[line].contains(level) && lines[line].contains(told), "{line}: {log}");
        }
    }
}
