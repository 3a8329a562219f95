//! The coordinator as a subcommand: what `concord serve` runs, so that one `cargo run` builds all there is.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use concord_coordinator::config::Config;
use concord_sandbox::parent_gone;

/// The same flags as those of `concord serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Where the log of decisions is kept
    #[arg(long)]
    data_dir: PathBuf,
}

/// Runs a coordinator, otherwise with the default configuration, until the demo goes away.
pub(crate) async fn serve(args: ServeArgs) -> Result<()> {
    let mut config = Config::default();
    config.server.listen = args.listen;
    config.store.data_dir = args.data_dir;
    // It is stopped only when the demo is gone, and then nobody is left to wait for.
    config.shutdown.grace_ms = 0;
    concord_coordinator::serve::run(config, parent_gone()).await?;
    Ok(())
}
