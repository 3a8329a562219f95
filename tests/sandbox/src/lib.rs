//! Private, real database servers for Concord's demos, tests and benches.
//!
//! [`Server::start`] gives a MySQL or MariaDB server of one's own: own data directory, free loopback port,
//! durable settings, ready for connections when the call returns. It can be killed with SIGKILL, frozen,
//! restarted on the same data and the same port, and is gone, data directory included, when dropped. Nothing is
//! installed on the machine and no root is needed.
//!
//! ```no_run
//! # async fn example() -> Result<(), concord_sandbox::Error> {
//! use concord_sandbox::{Flavor, Server, ServerOptions};
//!
//! let server = Server::start(ServerOptions::new(Flavor::MySql)).await?;
//! server.create_database("bank").await?;
//! println!("{}", server.url("bank")); // mysql://root@127.0.0.1:25123/bank
//!
//! server.kill9()?; // SIGKILL, no chance to say goodbye
//! server.restart().await?; // same data, same port; returns when it answers
//! server.stop().await?; // SIGTERM, and wait
//! # Ok(())
//! # }
//! ```
//!
//! The async functions must be called inside a tokio runtime; each has a `_blocking` twin for a plain `main`.
//!
//! [`Postgres::start`] does the same for PostgreSQL, which has no XA branches: it is for what a coordinator keeps
//! for itself.
//!
//! # Where the server program comes from
//!
//! In this order; the first that fits the wanted [`Flavor`] wins:
//!
//! 1. `CONCORD_TEST_MYSQL_URL`: a server that is already running. It cannot be killed, frozen or restarted:
//!    those calls answer [`Error::Unsupported`]. Ignored for the flavour that it is not.
//! 2. `CONCORD_MYSQLD` or `CONCORD_MARIADBD`: the path of a server program. If it does not work, that is an
//!    error; the search does not go on.
//! 3. `mysqld` and `mariadbd` on `PATH` and in the usual system directories. `--version` tells the flavour,
//!    because on many systems `mysqld` is MariaDB.
//! 4. The cache: `$XDG_CACHE_HOME/concord/sandbox`, else `~/.cache/concord/sandbox`
//!    (`CONCORD_SANDBOX_CACHE` overrides).
//! 5. A private unpack of the distribution's own packages through apt, into that cache. It needs no root and
//!    does not change the system. `CONCORD_SANDBOX_OFFLINE=1` forbids it.
//!
//! PostgreSQL is looked for in the same order, without 1: `CONCORD_SANDBOX_POSTGRES` names its program, and
//! its usual directories are searched, too. It refuses to run as root; if this process is root, it runs as
//! `nobody`, through `setpriv` of util-linux.
//!
//! # What is left behind
//!
//! The cache, and nothing else. Run directories live under `TMPDIR` if that is set, else `/var/tmp`, which is a
//! real disk on most machines, so that a sync costs what a sync costs (`CONCORD_SANDBOX_DIR` overrides). A small
//! watcher process ends a server whose owner died without dropping it; should that fail too, the next start in
//! any process sweeps it away (see [`sweep`]).

mod apt;
mod cache;
mod environment;
mod error;
mod flavor;
mod installation;
mod launch;
mod libraries;
mod locate;
mod obtain;
mod port;
mod postgres;
mod probe;
mod processes;
mod product;
mod progress;
mod rundir;
mod server;
mod service;
mod template;

pub use environment::Environment;
pub use error::{Error, Result};
pub use flavor::{Flavor, Version};
pub use installation::{Installation, Source};
pub use locate::{External, Located, fetch, locate, locate_cached};
pub use postgres::{
    Postgres, PostgresInstallation, PostgresOptions, fetch_postgres, locate_postgres, locate_postgres_cached,
};
pub use product::Product;
pub use rundir::{Swept, sweep};
pub use server::{Server, ServerOptions};
pub use service::{Address, PATIENCE, Service, parent_gone, until};
