//! The log alone: durable appends by many at once, and nothing around them.
//!
//! A writer begins a transaction, decides it, and leaves its end behind: two appends that it waits for and one that it
//! does not, as the coordinator makes them for TCC. The baseline appends as many bytes to a file, and syncs as it does
//! for the echo.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use concord_coordinator::store::{Durability, Entry, SqliteStore, Store, UnixMillis};
use concord_proto::store::{Record, record::Kind};
use concord_protocol::Gtid;

use crate::baseline::append_log::{AppendLog, encoded};
use crate::contest::{Side, contest};
use crate::history;
use crate::load::{Caller, Callers, Load, Shape, Target};
use crate::outcome::{Bound, Outcome};
use crate::processor_time::Watched;
use crate::report::{Curve, plot};
use crate::setup::{MANY, Setup};

const NAME: &str = "log-append";
const RATIO: Bound = Bound::AtLeast(0.7);

pub(crate) async fn measure(setup: &Setup) -> Result<Vec<Outcome>> {
    let directory = Setup::directory()?;
    let store = Arc::new(SqliteStore::open(&directory.path().join("store"))?);
    let mut ours = callers(setup, "Concord's store", &Ours::new(Arc::clone(&store)));
    let mut bare = callers(setup, "file", &Bare::create(&directory.path().join("file"))?);
    let watched = Watched::new([]);
    let (mut outcomes, mut curve) =
        (Vec::new(), Curve::new("durable appends", "Concord's store", "bare file"));
    for &concurrency in setup.concurrencies() {
        let load = Load { shape: Shape::Closed(concurrency), span: setup.span() };
        let rounds = if concurrency == MANY { setup.rounds() } else { setup.rounds_of_a_point() };
        let targets: [&mut dyn Target; 2] = [&mut ours, &mut bare];
        let what = format!("{NAME}, {concurrency} at a time");
        let [ours, bare] = contest(setup, &what, targets, load, rounds, &watched).await?;
        curve.add(concurrency, &ours, &bare)?;
        outcomes.push(outcome(concurrency, &ours, &bare)?);
    }
    store.close().await?;
    plot(&setup.plots, NAME, &curve)?;
    Ok(outcomes)
}

fn outcome(concurrency: usize, ours: &Side, bare: &Side) -> Result<Outcome> {
    let outcome = Outcome { unit: "appends/s", ..Outcome::throughput(NAME, ours, bare)? }.at(concurrency);
    Ok(match concurrency {
        MANY => outcome.ratio_wanted(RATIO).detail(&format!(
            "processor time: ours {}, file {}",
            ours.processor_time(),
            bare.processor_time()
        )),
        _ => outcome,
    })
}

fn callers<L: Log>(setup: &Setup, name: &str, log: &Arc<L>) -> Callers<Writer<L>> {
    let writer = || Writer { log: Arc::clone(log), begun: None };
    let counted = Arc::clone(log);
    let writers = std::iter::repeat_with(writer).take(setup.callers()).collect();
    Callers::new(name, writers).counting(move || counted.syncs())
}

/// Where records go.
trait Log: Send + Sync + 'static {
    /// A transaction that nobody has had.
    fn next(&self) -> Gtid;
    /// Returns when it is on disk.
    fn append(&self, gtid: Gtid, kind: Kind) -> impl Future<Output = Result<()>> + Send;
    /// Leaves it to be written.
    fn leave(&self, gtid: Gtid, kind: Kind) -> Result<()>;
    fn syncs(&self) -> u64;
}

/// Appends one record of a transaction after the other.
struct Writer<L> {
    log: Arc<L>,
    /// To be decided next.
    begun: Option<Gtid>,
}

impl<L: Log> Caller for Writer<L> {
    async fn call(&mut self) -> Result<()> {
        match self.begun.take() {
            None => {
                let gtid = self.log.next();
                self.log.append(gtid, history::begun()).await?;
                self.begun = Some(gtid);
            }
            Some(gtid) => {
                self.log.append(gtid, history::decided()).await?;
                self.log.leave(gtid, history::ended())?;
            }
        }
        Ok(())
    }
}

/// Concord's.
struct Ours {
    store: Arc<SqliteStore>,
    transactions: AtomicU64,
}

impl Ours {
    fn new(store: Arc<SqliteStore>) -> Arc<Ours> {
        Arc::new(Ours { store, transactions: AtomicU64::new(0) })
    }

    fn entry(gtid: Gtid, kind: Kind) -> Vec<Entry> {
        vec![Entry { gtid, at: UnixMillis::now(), record: Record { kind: Some(kind) } }]
    }
}

impl Log for Ours {
    fn next(&self) -> Gtid {
        let number = self.transactions.fetch_add(1, Ordering::Relaxed);
        Gtid::compose(UnixMillis::now().0, self.store.epoch(), number)
    }

    async fn append(&self, gtid: Gtid, kind: Kind) -> Result<()> {
        Ok(self.store.append(Ours::entry(gtid, kind), Durability::Forced).await?)
    }

    fn leave(&self, gtid: Gtid, kind: Kind) -> Result<()> {
        // That it fails is said to the next one who waits.
        drop(self.store.append(Ours::entry(gtid, kind), Durability::Lazy));
        Ok(())
    }

    fn syncs(&self) -> u64 {
        self.store.counters().syncs
    }
}

/// A file.
struct Bare {
    log: AppendLog,
    transactions: AtomicU64,
}

impl Bare {
    fn create(path: &Path) -> Result<Arc<Bare>> {
        Ok(Arc::new(Bare { log: AppendLog::create(path)?, transactions: AtomicU64::new(0) }))
    }
}

impl Log for Bare {
    fn next(&self) -> Gtid {
        Gtid::compose(1, concord_protocol::Epoch(1), self.transactions.fetch_add(1, Ordering::Relaxed))
    }

    async fn append(&self, _: Gtid, kind: Kind) -> Result<()> {
        self.log.append(encoded(kind)).await
    }

    fn leave(&self, _: Gtid, kind: Kind) -> Result<()> {
        self.log.append_lazily(encoded(kind))
    }

    fn syncs(&self) -> u64 {
        self.log.syncs()
    }
}
