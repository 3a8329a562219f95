//! What every scenario is told.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::load::Schedule;
use crate::report::Progress;

/// Concurrency at which most figures are wanted.
pub(crate) const MANY: usize = 64;

/// How thoroughly to measure, and where to put what comes of it.
pub(crate) struct Setup {
    /// About a minute for a scenario and a database.
    pub(crate) quick: bool,
    /// Rounds and seconds as given on the command line.
    pub(crate) rounds: Option<usize>,
    pub(crate) seconds: Option<f64>,
    /// Of open loops.
    pub(crate) arrivals: Schedule,
    /// Databases keep a binary log, synced.
    pub(crate) binlog: bool,
    /// Where plots go.
    pub(crate) plots: PathBuf,
    pub(crate) progress: Progress,
}

impl Setup {
    /// Rounds of what a figure is stated for.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 3 } else { 7 })
    }

    /// Rounds of one point of a plot.
    pub(crate) fn rounds_of_a_point(&self) -> usize {
        self.rounds().min(if self.quick { 2 } else { 3 })
    }

    /// One turn of one side.
    pub(crate) fn span(&self) -> Duration {
        self.seconds.map_or(Duration::from_secs(if self.quick { 1 } else { 2 }), Duration::from_secs_f64)
    }

    /// The concurrencies of a plot. With 1 and [`MANY`], for which figures are stated.
    pub(crate) fn concurrencies(&self) -> &'static [usize] {
        if self.quick { &[1, 8, MANY] } else { &[1, 2, 4, 8, 16, 32, MANY, 128, 256, 512] }
    }

    /// The largest of them: so many callers are needed.
    pub(crate) fn callers(&self) -> usize {
        self.concurrencies().iter().copied().fold(MANY, usize::max)
    }

    /// A directory on a disk, gone when dropped.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn directory() -> Result<tempfile::TempDir> {
        // Not the system's temporary directory: that may be memory, where syncs cost nothing.
        Ok(tempfile::Builder::new().prefix("concord-bench-").tempdir_in("/var/tmp")?)
    }
}
