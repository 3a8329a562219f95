//! `jepsen`: runs Concord as real processes on real databases, breaks what can be broken, and checks what happened.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

/// As in the `concord` program: the coordinator runs in this one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = cli::Cli::parse();
    let outcome = tokio::runtime::Runtime::new().map_err(anyhow::Error::from).and_then(|runtime| {
        let outcome = runtime.block_on(cli::obey(command));
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        outcome
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(cli::UNUSABLE)
    })
}
