//! What the driver costs: one-statement branches (work, PREPARE, COMMIT) through it, against the same SQL sent
//! by a bare client that keeps no marker row and looks at nothing.
//!
//! `cargo run --release -p concord-xa --example overhead`

#![allow(clippy::unwrap_used)] // A measurement: whatever goes wrong ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use concord_protocol::{BranchId, ClusterId, Epoch, Gtid};
use concord_sandbox::{Flavor, Server, ServerOptions};
use concord_xa::{Database, Options, Resolution, Vote, Xid};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder};

const CLIENTS: u32 = 64;
const SPAN: Duration = Duration::from_secs(4);
static SEQUENCE: AtomicU64 = AtomicU64::new(1);

fn xid() -> Xid {
    let gtid = Gtid::compose(1_700_000_000_000, Epoch(1), SEQUENCE.fetch_add(1, Ordering::Relaxed));
    Xid { cluster: ClusterId(1), gtid, branch: BranchId(1) }
}

async fn bare(url: String, id: u32, until: Instant) -> u64 {
    let opts: Opts = OptsBuilder::from_opts(Opts::from_url(&url).unwrap()).prefer_socket(false).into();
    let mut conn = Conn::new(opts).await.unwrap();
    let mut done = 0;
    while Instant::now() < until {
        let name = xid().to_sql();
        let work = format!("UPDATE account SET balance = balance - 1 WHERE id = {id}");
        conn.query_drop(format!("XA START {name}; {work}; XA END {name}; XA PREPARE {name}")).await.unwrap();
        conn.query_drop(format!("XA COMMIT {name}")).await.unwrap();
        done += 1;
    }
    done
}

async fn driver(db: Database, id: u32, until: Instant) -> u64 {
    let mut done = 0;
    while Instant::now() < until {
        let xid = xid();
        let mut branch = db.begin(xid.cluster, xid.gtid, xid.branch).await.unwrap();
        branch.queue("UPDATE account SET balance = balance - 1 WHERE id = ?", (id,), Some(1)).unwrap();
        let Vote::Yes(mut prepared) = branch.prepare(b"").await else { panic!("no yes") };
        assert!(matches!(prepared.commit().await, Resolution::Committed { .. }));
        done += 1;
    }
    done
}

async fn rate<F: Future<Output = u64> + Send + 'static>(client: impl Fn(u32, Instant) -> F) -> f64 {
    let begun = Instant::now();
    let clients: Vec<_> = (0..CLIENTS).map(|id| tokio::spawn(client(id, begun + SPAN))).collect();
    let mut done = 0;
    for client in clients {
        done += client.await.unwrap();
    }
    done as f64 / begun.elapsed().as_secs_f64()
}

#[tokio::main]
async fn main() {
    for flavor in [Flavor::MariaDb, Flavor::MySql] {
        let server = Arc::new(Server::start(ServerOptions::new(flavor).max_connections(500)).await.unwrap());
        server.create_database("bench").await.unwrap();
        let url = server.url("bench");
        let mut conn = Conn::from_url(&url).await.unwrap();
        conn.query_drop("CREATE TABLE account (id INT PRIMARY KEY, balance INT NOT NULL)").await.unwrap();
        for id in 0..CLIENTS {
            conn.query_drop(format!("INSERT INTO account VALUES ({id}, 1000000)")).await.unwrap();
        }
        let db = Database::connect(&url, Options::default()).await.unwrap();
        db.migrate().await.unwrap();
        for round in 1..=2 {
            let bare = rate(|id, until| bare(url.clone(), id, until)).await;
            let through = rate(|id, until| driver(db.clone(), id, until)).await;
            println!(
                "{} round {round}: bare {bare:.0}/s, driver {through:.0}/s, ratio {:.2}",
                db.server_info(),
                through / bare
            );
        }
    }
}
