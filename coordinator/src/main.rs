//! The `concord` program: the coordinator itself, and the commands for the people who run it.

mod cli;

/// A transaction is many small, short-lived allocations on several threads. Measured in docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
