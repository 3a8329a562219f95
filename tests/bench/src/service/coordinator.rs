//! The real coordinator with its default configuration, but for where it listens and what it keeps.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use concord_coordinator::config::{Config, DatabaseUrl};
use concord_sandbox::parent_gone;

const DAY_MS: u64 = 86_400_000;

#[derive(Debug, Args)]
pub(crate) struct CoordinatorArgs {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    data_dir: PathBuf,
    /// URL of a database for its log, in place of the directory
    #[arg(long)]
    store: Option<String>,
    /// How long it may be silent before others take over
    #[arg(long)]
    lease_ms: Option<u64>,
    /// How long history is kept, if not as long as by default
    #[arg(long)]
    retention_days: Option<u64>,
}

pub(super) async fn serve(args: CoordinatorArgs) -> Result<()> {
    let mut config = Config::default();
    config.server.listen = args.listen;
    config.store.data_dir = args.data_dir;
    config.store.url = args.store.as_deref().map(DatabaseUrl::parse_shared).transpose()?;
    if let Some(lease_ms) = args.lease_ms {
        config.cluster.lease_ms = lease_ms;
    }
    if let Some(days) = args.retention_days {
        config.store.retention_ms = days * DAY_MS;
    }
    concord_coordinator::serve::run(config, parent_gone()).await?;
    Ok(())
}
