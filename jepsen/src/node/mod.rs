//! What runs in the processes of a run: this program, started again by itself.
//!
//! Each is told what to do wrong by lines on its standard input, and ends as by SIGKILL when the harness is gone.

pub mod coordinator;
pub mod participant;

use std::io::BufRead as _;

use anyhow::Result;
use tracing_subscriber::EnvFilter;

/// The exit code of a process that lost its harness; what a shell says of SIGKILL.
const ABANDONED: i32 = 137;

/// Logs to standard error, which is a file; a full disk may be a fault of the run's.
fn start_log(filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    lines.with_ansi(false).log_internal_errors(false).init();
    Ok(())
}

/// Has every line of standard input obeyed, until there are no more; then ends the process.
fn obey_lines(mut obey: impl FnMut(&str) -> Result<()> + Send + 'static) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            match obey(&line) {
                Ok(()) => tracing::info!(%line, "told"),
                Err(error) => tracing::error!(%line, %error, "not understood"),
            }
        }
        std::process::exit(ABANDONED);
    });
}
