//! Bare durable appends to a file: one thread writes all that waits, syncs once, and wakes all. No timers, no
//! checksums, nothing that could be read back.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use anyhow::{Context as _, Result};
use concord_proto::store::{Record, record::Kind};
use prost::Message as _;
use tokio::sync::oneshot;

use crate::load::{histogram, ms};

/// What Concord's store keeps of a record beside its text: gtid, epoch, number, time, checksum.
const COLUMNS_BYTES: usize = 16 + 4 + 8 + 8 + 4;

/// As many bytes as Concord's store writes of this record.
pub(crate) fn encoded(kind: Kind) -> Vec<u8> {
    let mut bytes = Record { kind: Some(kind) }.encode_to_vec();
    bytes.resize(bytes.len() + COLUMNS_BYTES, 0);
    bytes
}

/// Dropping it ends its thread.
pub(crate) struct AppendLog {
    queue: Sender<Append>,
    syncs: Arc<AtomicU64>,
}

struct Append {
    bytes: Vec<u8>,
    /// Whom to tell; nobody waits for a lazy append, and it is not synced for its own sake.
    done: Option<oneshot::Sender<()>>,
}

impl AppendLog {
    /// Makes the file.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn create(path: &Path) -> Result<AppendLog> {
        let file = File::create(path)?;
        let (queue, waiting) = channel();
        let syncs = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&syncs);
        std::thread::spawn(move || write_all(file, &waiting, &counted));
        Ok(AppendLog { queue, syncs })
    }

    /// Returns when it is on disk.
    ///
    /// # Errors
    /// When writing has failed, now or before.
    pub(crate) async fn append(&self, bytes: Vec<u8>) -> Result<()> {
        let (done, written) = oneshot::channel();
        self.queue.send(Append { bytes, done: Some(done) }).ok().context("the writer has failed")?;
        written.await.context("the writer has failed")
    }

    /// Appends with the next one that somebody waits for.
    ///
    /// # Errors
    /// When writing has failed before.
    pub(crate) fn append_lazily(&self, bytes: Vec<u8>) -> Result<()> {
        self.queue.send(Append { bytes, done: None }).ok().context("the writer has failed")
    }

    /// So far.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }
}

/// Ends when nobody can append any more, or with the first failure: those who wait then are told by what they hold.
fn write_all(mut file: File, waiting: &Receiver<Append>, syncs: &AtomicU64) {
    while let Ok(first) = waiting.recv() {
        let batch: Vec<Append> = std::iter::once(first).chain(waiting.try_iter()).collect();
        let bytes: Vec<u8> = batch.iter().flat_map(|append| append.bytes.as_slice()).copied().collect();
        let forced = batch.iter().any(|append| append.done.is_some());
        if let Err(error) =
            file.write_all(&bytes).and_then(|()| if forced { file.sync_data() } else { Ok(()) })
        {
            tracing::error!(%error, "cannot append");
            return;
        }
        syncs.fetch_add(u64::from(forced), Ordering::Relaxed);
        for done in batch.into_iter().filter_map(|append| append.done) {
            // Nobody waits any more: no matter, it is written.
            done.send(()).ok();
        }
    }
}

/// What it takes to append a page to a file in `directory` and sync it, in milliseconds: the median of many.
///
/// # Errors
/// When writing fails.
pub(crate) fn sync_ms(directory: &Path) -> Result<f64> {
    const APPENDS: usize = 300;
    const PAGE: [u8; 4096] = [0x5a; 4096];
    let mut file = tempfile::tempfile_in(directory)?;
    let mut latency = histogram()?;
    for _ in 0..APPENDS {
        let start = Instant::now();
        file.write_all(&PAGE)?;
        file.sync_data()?;
        latency.record(u64::try_from(start.elapsed().as_micros())?)?;
    }
    Ok(ms(&latency, 0.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_appended_is_in_the_file_and_synced_at_least_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = AppendLog::create(&path).unwrap();
        let appends = (0_u8..100).map(|number| log.append(vec![number; 10]));
        futures_util::future::try_join_all(appends).await.unwrap();
        let mut found = std::fs::read(&path).unwrap();
        found.sort_unstable();
        let expected: Vec<u8> = (0_u8..100).flat_map(|number| [number; 10]).collect();
        assert_eq!(found, expected);
        assert!((1..=100).contains(&log.syncs()), "{}", log.syncs());
    }
}
