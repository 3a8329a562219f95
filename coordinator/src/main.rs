//! The `concord` program: the coordinator itself, and the commands for the people who run it.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
