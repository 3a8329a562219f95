//! Everything that the demo runs on: two database servers, two bank services, a coordinator.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use concord_sandbox::{Address, Error as SandboxError, Flavor, Server, ServerOptions, Service};

use super::Options;
use super::account::Bank;
use super::books::Books;
use super::initiator::Initiator;
use super::say;
use crate::bank::OPENING_BALANCE;

/// All of it. Dropped, the processes end, and the servers go with their data.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The coordinator's process.
    pub coordinator: Service,
    /// The banks' services, in the order of [`Bank::ALL`].
    pub banks: [BankService; 2],
    /// The banks' databases, in the same order.
    pub books: [Books; 2],
    /// A client of the coordinator.
    pub initiator: Arc<Initiator>,
}

/// A bank's process, and the switch that keeps commits from it.
#[derive(Debug)]
pub(crate) struct BankService {
    /// The process.
    pub process: Service,
    /// While this file is there, the bank answers the coordinator's Commit with UNAVAILABLE.
    pub hold: PathBuf,
}

impl BankService {
    /// From now on no Commit reaches the bank's database.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(crate) fn hold_commits(&self) -> Result<()> {
        fs::write(&self.hold, "").with_context(|| format!("create {}", self.hold.display()))
    }

    /// Lets them pass again.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub(crate) fn release_commits(&self) -> Result<()> {
        fs::remove_file(&self.hold).with_context(|| format!("remove {}", self.hold.display()))
    }
}

impl Stage {
    /// Starts everything and opens the accounts. Logs and the coordinator's data go into `dir`.
    ///
    /// # Errors
    /// When something does not start.
    pub(crate) async fn build(options: &Options, dir: &Path) -> Result<Stage> {
        let (first, second) = servers(options.db).await?;
        let books = [Books::create(Bank::A, first).await?, Books::create(Bank::B, second).await?];
        let [coordinator, at_a, at_b] = [Address::reserve()?, Address::reserve()?, Address::reserve()?];
        let program = std::env::current_exe().context("find this program's own file")?;
        let mut coordinator = Service::new(
            "the coordinator",
            options.concord.clone().unwrap_or_else(|| program.clone()),
            arguments([
                "serve".into(),
                "--listen".into(),
                coordinator.to_string().into(),
                "--data-dir".into(),
                dir.join("coordinator-data").into(),
            ]),
            coordinator,
            dir.join("coordinator.log"),
        );
        coordinator.start().await?;
        let mut banks = [(Bank::A, at_a), (Bank::B, at_b)].map(|(bank, address)| {
            let hold = dir.join(format!("{}.hold", bank.slug()));
            let arguments = arguments([
                "bank".into(),
                "--name".into(),
                bank.to_string().into(),
                "--listen".into(),
                address.to_string().into(),
                "--database".into(),
                books[bank.index()].url().into(),
                "--coordinator".into(),
                coordinator.url().into(),
                "--hold-commits-while".into(),
                hold.clone().into(),
            ]);
            let log = dir.join(format!("{}.log", bank.slug()));
            let process = Service::new(&format!("bank {bank}"), program.clone(), arguments, address, log);
            BankService { process, hold }
        });
        for bank in &mut banks {
            bank.process.start().await?;
        }
        for one in &books {
            one.open_accounts(options.accounts, OPENING_BALANCE).await?;
        }
        let addresses = banks.each_ref().map(|bank| bank.process.url());
        let initiator = Arc::new(Initiator::new(&coordinator.url(), addresses)?);
        initiator.status().await?;
        Ok(Stage { coordinator, banks, books, initiator })
    }

    /// Tells what was started.
    pub(crate) fn describe(&self, options: &Options) {
        for bank in Bank::ALL {
            let (process, server) = (&self.banks[bank.index()].process, self.books[bank.index()].server());
            let whose = if server.is_private() { "its own" } else { "your" };
            say::line(format!(
                "bank {bank}        process {}, {}; {whose} {} {} on port {}",
                process.pid(),
                process.address(),
                server.flavor(),
                server.version(),
                server.port()
            ));
        }
        let program = match &options.concord {
            Some(path) => path.display().to_string(),
            None => "`concord serve` built into this program".to_owned(),
        };
        say::line(format!(
            "coordinator   process {}, {}; {program}",
            self.coordinator.pid(),
            self.coordinator.address()
        ));
        say::line("initiator     this process, over gRPC");
        say::line(format!(
            "accounts      {} at each bank, each with {}",
            say::thousands(options.accounts.into()),
            say::thousands(OPENING_BALANCE)
        ));
    }

    /// The ends of the database servers' logs.
    pub(crate) fn server_logs(&self) -> impl Iterator<Item = (String, String)> {
        Bank::ALL.into_iter().map(|bank| {
            (format!("database server of bank {bank}"), self.books[bank.index()].server().log_tail())
        })
    }

    /// Prepared branches on either server.
    ///
    /// # Errors
    /// When a server cannot be asked.
    pub(crate) async fn in_doubt(&self) -> Result<[usize; 2]> {
        Ok([self.books[0].in_doubt().await?, self.books[1].in_doubt().await?])
    }

    /// Leaves nothing behind. The processes end, and private servers go, by themselves.
    ///
    /// # Errors
    /// When a server that is not ours refuses to drop our databases.
    pub(crate) async fn remove(self) -> Result<()> {
        let Stage { coordinator, banks, books, initiator: _ } = self;
        drop((coordinator, banks));
        for one in &books {
            one.remove().await?;
        }
        Ok(())
    }
}

fn arguments<const N: usize>(list: [OsString; N]) -> Vec<OsString> {
    list.into()
}

/// Two servers of the wanted kind; when the reader does not mind, MySQL if it can be had, else MariaDB.
async fn servers(wanted: Option<Flavor>) -> Result<(Server, Server)> {
    let start = |flavor| Server::start(ServerOptions::new(flavor));
    let first = match (start(wanted.unwrap_or(Flavor::MySql)).await, wanted) {
        (Err(SandboxError::NoServer { .. }), None) => {
            say::line("MySQL cannot be had on this machine: MariaDB it is");
            start(Flavor::MariaDb).await?
        }
        (result, _) => result?,
    };
    let second = start(first.flavor()).await?;
    Ok((first, second))
}
