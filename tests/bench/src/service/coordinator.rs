//! The real coordinator with its default configuration, but for the address and the directory.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use concord_coordinator::config::Config;
use concord_sandbox::parent_gone;

#[derive(Debug, Args)]
pub(crate) struct CoordinatorArgs {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    data_dir: PathBuf,
}

pub(super) async fn serve(args: CoordinatorArgs) -> Result<()> {
    let mut config = Config::default();
    config.server.listen = args.listen;
    config.store.data_dir = args.data_dir;
    concord_coordinator::serve::run(config, parent_gone()).await?;
    Ok(())
}
