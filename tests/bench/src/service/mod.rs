//! The processes that are measured. Each is this program again, with other arguments.

pub(crate) mod bank;
mod coordinator;
mod noop;
pub(crate) mod shop;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Subcommand;
use concord_sandbox::{Address, Service};
use tonic::transport::{Channel, Endpoint};

use crate::baseline::echo;

#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    #[command(hide = true)]
    Bank(bank::BankArgs),
    #[command(hide = true)]
    Coordinator(coordinator::CoordinatorArgs),
    #[command(hide = true)]
    Echo(echo::EchoArgs),
    #[command(hide = true)]
    Noop(noop::NoopArgs),
    #[command(hide = true)]
    Shop(shop::ShopArgs),
}

impl Role {
    /// Serves until the process that started this one is gone.
    pub(crate) async fn serve(self) -> Result<()> {
        match self {
            Role::Bank(args) => bank::serve(args).await,
            Role::Coordinator(args) => coordinator::serve(args).await,
            Role::Echo(args) => echo::serve(args).await,
            Role::Noop(args) => noop::serve(args).await,
            Role::Shop(args) => shop::serve(args).await,
        }
    }
}

/// Starts a process of this `role`, which writes its log in `directory`, and returns when it listens.
///
/// # Errors
/// When it does not start.
pub(crate) async fn start(role: &str, name: &str, directory: &Path, arguments: &[String]) -> Result<Service> {
    let address = Address::reserve()?;
    let arguments = [role.to_owned(), format!("--listen={address}")].into_iter().chain(arguments.to_vec());
    let log = directory.join(format!("{name}.log"));
    let mut service = Service::new(name, std::env::current_exe()?, arguments, address, log);
    service.start().await?;
    Ok(service)
}

/// The real coordinator with its data in `directory`.
///
/// # Errors
/// When it does not start.
pub(crate) async fn coordinator(directory: &Path) -> Result<Service> {
    coordinator_with(directory, &[]).await
}

/// The same with more arguments.
///
/// # Errors
/// When it does not start.
pub(crate) async fn coordinator_with(directory: &Path, arguments: &[&str]) -> Result<Service> {
    let data = format!("--data-dir={}", data_of_coordinator(directory).display());
    let arguments: Vec<String> =
        arguments.iter().map(|argument| (*argument).to_owned()).chain([data]).collect();
    start("coordinator", "coordinator", directory, &arguments).await
}

/// Where the coordinator of this directory has its data.
pub(crate) fn data_of_coordinator(directory: &Path) -> PathBuf {
    directory.join("concord-data")
}

/// A participant that does nothing, called on streams by these coordinators, and by others at its address.
///
/// # Errors
/// When it does not start.
pub(crate) async fn noop(name: &str, directory: &Path, coordinators: &[&Service]) -> Result<Service> {
    let attach = |coordinator: &&Service| format!("--attach-to={}", coordinator.url());
    start("noop", name, directory, &coordinators.iter().map(attach).collect::<Vec<_>>()).await
}

/// A participant that reserves everything and confirms nothing.
///
/// # Errors
/// When it does not start.
pub(crate) async fn never_confirms(name: &str, directory: &Path) -> Result<Service> {
    start("noop", name, directory, &["--never-confirms".to_owned()]).await
}

/// A connection that is made when it is first used, and again when it broke.
///
/// # Errors
/// When this is no URL.
pub(crate) fn channel(url: &str) -> Result<Channel> {
    Ok(Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true).connect_lazy())
}
