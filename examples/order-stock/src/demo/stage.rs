//! Everything that the demo runs on: three database servers, three services, a coordinator.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use concord_participant::reservations::Reservations;
use concord_sandbox::{Address, Error as SandboxError, Flavor, Server, ServerOptions, Service};

use super::Options;
use super::books::Books;
use super::catalog::{CUSTOMER, HOT, OPENING_BALANCE, POOR, PRICES, opening_balance, opening_stock};
use super::customer::Customer;
use super::observer::Observer;
use super::part::Part;
use super::say;
use crate::payment::account;

/// All of it. Dropped, the processes end, and the servers go with their data.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The coordinator's process.
    pub coordinator: Service,
    /// The services, in the order of [`Part::ALL`].
    pub parts: [PartService; 3],
    /// The services' databases, in the same order.
    pub books: [Books; 3],
    /// The stock service's reservations.
    pub stock: Reservations,
    /// The payment service's reservations.
    pub balance: Reservations,
    /// A client of the order service.
    pub customer: Arc<Customer>,
    /// A client of the coordinator.
    pub observer: Observer,
    /// Where the order service listens for the coordinator; reserved for as long as it may be started.
    _order_participant: Address,
}

/// A service's process, and its test switches.
#[derive(Debug)]
pub(crate) struct PartService {
    /// The process.
    pub process: Service,
    switches: PathBuf,
}

impl PartService {
    /// Where a switch, or what one leaves behind, is found.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.switches.join(name)
    }

    /// Turns a test switch on.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(crate) fn switch_on(&self, name: &str) -> Result<()> {
        let file = self.file(name);
        fs::write(&file, "").with_context(|| format!("create {}", file.display()))
    }

    /// Turns it off.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub(crate) fn switch_off(&self, name: &str) -> Result<()> {
        let file = self.file(name);
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))
    }
}

impl Stage {
    /// Starts everything, fills the shelves and opens the accounts. Logs and the coordinator's data go into
    /// `dir`.
    ///
    /// # Errors
    /// When something does not start.
    pub(crate) async fn build(options: &Options, dir: &Path) -> Result<Stage> {
        let [first, second, third] = servers(options.db).await?;
        let books = [
            Books::create(Part::Order, first).await?,
            Books::create(Part::Stock, second).await?,
            Books::create(Part::Payment, third).await?,
        ];
        let program = std::env::current_exe().context("find this program's own file")?;
        let mut coordinator = coordinator(options, &program, dir)?;
        coordinator.start().await?;
        let order_participant = Address::reserve()?;
        let part = |part: Part, more: Vec<OsString>| -> Result<PartService> {
            let (address, switches) = (Address::reserve()?, dir.join(format!("{part}.switches")));
            fs::create_dir(&switches)?;
            let mut arguments: Vec<OsString> = vec![
                part.slug().into(),
                "--listen".into(),
                address.to_string().into(),
                "--database".into(),
                books[part.index()].url().into(),
                "--coordinator".into(),
                coordinator.url().into(),
                "--switches".into(),
                switches.clone().into(),
            ];
            arguments.extend(more);
            let (name, log) = (format!("the {part} service"), dir.join(format!("{part}.log")));
            let process = Service::new(&name, program.clone(), arguments, address, log);
            Ok(PartService { process, switches })
        };
        let (stock, payment) = (part(Part::Stock, Vec::new())?, part(Part::Payment, Vec::new())?);
        let more = [
            ("--listen-participant", order_participant.to_string()),
            ("--stock", stock.process.url()),
            ("--payment", payment.process.url()),
        ];
        let more = more.into_iter().flat_map(|(flag, value)| [flag.into(), value.into()]).collect();
        let mut parts = [part(Part::Order, more)?, stock, payment];
        for part in &mut parts {
            part.process.start().await?;
        }
        let stage = Stage {
            customer: Arc::new(Customer::new(parts[Part::Order.index()].process.url())?),
            observer: Observer::new(&coordinator.url())?,
            stock: Reservations::named("stock")?,
            balance: Reservations::named("balance")?,
            coordinator,
            parts,
            books,
            _order_participant: order_participant,
        };
        stage.open(options).await?;
        stage.observer.status().await?;
        Ok(stage)
    }

    /// Goods come in, one SKU is split, and accounts are opened.
    async fn open(&self, options: &Options) -> Result<()> {
        let goods = PRICES.map(|(sku, _)| (sku.to_owned(), opening_stock(sku, options.orders)));
        let [order, stock, payment] = &self.books;
        order.set_prices(&PRICES).await?;
        stock.bring(&self.stock, &goods).await?;
        stock.split(&self.stock, HOT, options.buckets).await?;
        let users = (1..=options.buyers.max(CUSTOMER)).chain([POOR]);
        let money: Vec<_> = users.map(|user| (account(user), opening_balance(user))).collect();
        payment.bring(&self.balance, &money).await
    }

    /// Tells what was started.
    pub(crate) fn describe(&self, options: &Options) {
        for part in Part::ALL {
            let (process, server) = (&self.part(part).process, self.books(part).server());
            let whose = if server.is_private() { "its own" } else { "your" };
            say::line(format!(
                "{part:<13} process {}, {}; {whose} {} {} on port {}",
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
        let (pid, address) = (self.coordinator.pid(), self.coordinator.address());
        say::line(format!("coordinator   process {pid}, {address}; {program}"));
        say::line("customers     this process, over HTTP");
        say::line(format!(
            "stock         {} SKUs with plenty of each, but {} of {HOT}, which is split into {} buckets",
            PRICES.len(),
            say::thousands(opening_stock(HOT, options.orders)),
            options.buckets
        ));
        say::line(format!(
            "money         {} for each of {} users",
            say::money(OPENING_BALANCE),
            options.buyers.max(CUSTOMER)
        ));
    }

    /// A service's process.
    pub(crate) fn part(&self, part: Part) -> &PartService {
        &self.parts[part.index()]
    }

    /// A service's database.
    pub(crate) fn books(&self, part: Part) -> &Books {
        &self.books[part.index()]
    }

    /// The ends of the database servers' logs.
    pub(crate) fn server_logs(&self) -> impl Iterator<Item = (String, String)> {
        Part::ALL.into_iter().map(|part| {
            (format!("database server of the {part} service"), self.books(part).server().log_tail())
        })
    }

    /// Leaves nothing behind. The processes end, and private servers go, by themselves.
    ///
    /// # Errors
    /// When a server that is not ours refuses to drop our databases.
    pub(crate) async fn remove(self) -> Result<()> {
        let Stage { coordinator, parts, books, .. } = self;
        drop((coordinator, parts));
        for one in &books {
            one.remove().await?;
        }
        Ok(())
    }
}

fn coordinator(options: &Options, program: &Path, dir: &Path) -> Result<Service> {
    let address = Address::reserve()?;
    let arguments: [OsString; 5] = [
        "serve".into(),
        "--listen".into(),
        address.to_string().into(),
        "--data-dir".into(),
        dir.join("coordinator-data").into(),
    ];
    let program = options.concord.clone().unwrap_or_else(|| program.to_owned());
    Ok(Service::new("the coordinator", program, arguments, address, dir.join("coordinator.log")))
}

/// Three servers of the wanted kind; when the reader does not mind, MySQL if it can be had, else MariaDB.
async fn servers(wanted: Option<Flavor>) -> Result<[Server; 3]> {
    let start = |flavor| Server::start(ServerOptions::new(flavor));
    let first = match (start(wanted.unwrap_or(Flavor::MySql)).await, wanted) {
        (Err(SandboxError::NoServer { .. }), None) => {
            say::line("MySQL cannot be had on this machine: MariaDB it is");
            start(Flavor::MariaDb).await?
        }
        (result, _) => result?,
    };
    let flavor = first.flavor();
    Ok([first, start(flavor).await?, start(flavor).await?])
}
