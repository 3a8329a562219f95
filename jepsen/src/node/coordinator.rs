//! The coordinator's process: what `concord serve` runs, on a clock that can be told to jump.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::{Context as _, Result};
use clap::Args;
use concord_coordinator::config::{Config, Sources};
use concord_coordinator::engine::{Machine, Surroundings};
use concord_coordinator::store::UnixMillis;
use tokio::signal::unix::{SignalKind, signal};

/// The signal that a file has grown beyond its limit. Its default ends the process; once somebody listens for it,
/// the write fails instead, as on a full disk.
const SIGXFSZ: i32 = 25;

/// What it is told at its start.
#[derive(Debug, Args)]
pub struct CoordinatorArgs {
    /// Configuration file, as of `concord serve`
    #[arg(long)]
    config: PathBuf,
}

/// The machine's clock, and how far off it is.
#[derive(Debug, Default)]
struct JumpingClock {
    offset_ms: AtomicI64,
}

impl Surroundings for JumpingClock {
    fn wall_clock(&self) -> UnixMillis {
        UnixMillis(Machine.wall_clock().0.saturating_add_signed(self.offset_ms.load(Ordering::Relaxed)))
    }

    fn chance(&self) -> f64 {
        Machine.chance()
    }

    fn unguessable(&self) -> u64 {
        Machine.unguessable()
    }
}

/// Runs a coordinator until the harness is gone. `clock MS` on its standard input sets how far its clock is off.
///
/// # Errors
/// When the configuration cannot be used.
pub async fn serve(args: CoordinatorArgs) -> Result<ExitCode> {
    let sources = Sources { file: Some(args.config), environment: Vec::new(), flags: Vec::new() };
    let config = Config::load(&sources)?.config;
    super::start_log(&config.log.filter)?;
    concord_coordinator::serve::end_on_panic();
    let clock = Arc::new(JumpingClock::default());
    let told = Arc::clone(&clock);
    super::obey_lines(move |line| {
        let offset = line.strip_prefix("clock ").context("neither is it `clock MS`")?;
        told.offset_ms.store(offset.parse()?, Ordering::Relaxed);
        Ok(())
    });
    let _quiet = signal(SignalKind::from_raw(SIGXFSZ))?;
    // The harness never asks it to stop: it kills.
    Ok(
        match concord_coordinator::serve::run_in(
            config,
            clock,
            futures_util::stream::pending(),
            std::future::pending(),
        )
        .await
        {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "the coordinator cannot go on");
                ExitCode::from(error.exit_code())
            }
        },
    )
}
