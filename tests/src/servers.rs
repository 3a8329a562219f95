//! Database servers, shared by the tests of one test program.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use concord_sandbox::{Flavor, Server, ServerOptions};
use concord_xa::{Database, Options};
use mysql_async::prelude::Queryable as _;
use tokio::sync::{Mutex, MutexGuard};

use crate::bank::Bank;

/// Two servers of one flavour. Tests kill them, so only one test at a time has them.
#[derive(Debug)]
pub struct Pair {
    servers: [Server; 2],
    _lock: MutexGuard<'static, ()>,
}

struct Shared {
    servers: LazyLock<[Server; 2]>,
    lock: Mutex<()>,
}

static MYSQL: Shared = Shared { servers: LazyLock::new(|| start(Flavor::MySql)), lock: Mutex::const_new(()) };
static MARIADB: Shared =
    Shared { servers: LazyLock::new(|| start(Flavor::MariaDb)), lock: Mutex::const_new(()) };

/// Databases made so far: each test has its own.
static DATABASES: AtomicU32 = AtomicU32::new(0);

#[allow(clippy::expect_used, reason = "a test without its database cannot go on")]
fn start(flavor: Flavor) -> [Server; 2] {
    // Threads of their own: the blocking twin must not run inside a runtime.
    let one = || {
        std::thread::spawn(move || {
            Server::start_blocking(ServerOptions::new(flavor)).expect("a database server")
        })
    };
    let both = [one(), one()];
    both.map(|starting| starting.join().expect("the server starts"))
}

/// The two servers of a flavour, for one test alone, both running.
///
/// # Errors
/// When one that an earlier test left down does not come back.
pub async fn pair(flavor: Flavor) -> Result<Pair> {
    let shared = match flavor {
        Flavor::MySql => &MYSQL,
        Flavor::MariaDb => &MARIADB,
    };
    let lock = shared.lock.lock().await;
    let servers = tokio::task::spawn_blocking(|| LazyLock::force(&shared.servers).clone()).await?;
    for server in &servers {
        // Left behind by a test that failed half-way.
        match server.pid() {
            None => server.restart().await?,
            Some(_) => server.resume()?,
        }
        forget(server).await?;
    }
    Ok(Pair { servers, _lock: lock })
}

/// Rolls back what a test that failed has left prepared, lest the next one fails too.
async fn forget(server: &Server) -> Result<()> {
    let database = Database::connect(&server.url(""), Options::default()).await?;
    let mut connection = mysql_async::Conn::from_url(server.url("")).await?;
    for one in database.recover().await? {
        let name = one.raw;
        let (gtrid, bqual) = (hex(&name.gtrid), hex(&name.bqual));
        let sql = format!("XA ROLLBACK X'{gtrid}',X'{bqual}',{}", name.format_id);
        // It may end by itself at this very moment.
        connection.query_drop(sql).await.ok();
    }
    Ok(connection.disconnect().await?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Pair {
    /// The servers.
    pub fn servers(&self) -> &[Server; 2] {
        &self.servers
    }

    /// A new bank on each.
    ///
    /// # Errors
    /// What a database says.
    pub async fn banks(&self, accounts: u32, balance: i64) -> Result<[Bank; 2]> {
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let [one, two] = &self.servers;
        let name = format!("bank{number}");
        let (one, two) = tokio::try_join!(
            Bank::open(one, &name, accounts, balance),
            Bank::open(two, &name, accounts, balance)
        )?;
        Ok([one, two])
    }
}
