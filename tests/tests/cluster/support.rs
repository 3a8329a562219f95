//! Three coordinators, two banks, and a store.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(super) use anyhow::{Result, bail, ensure};
use concord_proto::Coordinators;
pub(super) use concord_proto::v1::coordinator_client::CoordinatorClient;
pub(super) use concord_proto::v1::*;
use concord_sandbox::{Flavor, PATIENCE, Postgres, PostgresOptions};
pub(super) use concord_tests::{Coordinator, Fault, Outcome, Transfer, Verb, World, WorldOptions, until};
use concord_tests::{Pair, Programs};
use tokio::task::JoinHandle;
use tonic::Code;

const PROGRAMS: Programs = concord_tests::programs!();

/// How long a coordinator may be silent.
pub(super) const LEASE: Duration = Duration::from_secs(4);

/// Where the store is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shared {
    MySql,
    MariaDb,
    Postgres,
}

/// A test for each kind of store.
macro_rules! on_each_store {
    (mod $module:ident $shared:ident $($scenario:ident)*) => {
        mod $module {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(super::Shared::$shared).await.unwrap();
            })*
        }
    };
    ($($scenario:ident),* $(,)?) => {
        on_each_store! { mod mysql MySql $($scenario)* }
        on_each_store! { mod mariadb MariaDb $($scenario)* }
        on_each_store! { mod postgres Postgres $($scenario)* }
    };
}
pub(super) use on_each_store;

/// A world with three coordinators, and the servers that nobody else uses meanwhile. The world goes first.
pub(super) struct Scene {
    pub(super) world: World,
    _pair: Pair,
}

impl Scene {
    pub(super) async fn set(shared: Shared) -> Result<Scene> {
        Scene::set_with(shared, WorldOptions::default(), LEASE).await
    }

    /// Those whose lease is to be given back, rather than to run out, have a long one.
    pub(super) async fn set_with(shared: Shared, options: WorldOptions, lease: Duration) -> Result<Scene> {
        static STORES: AtomicU32 = AtomicU32::new(0);
        static POSTGRES: LazyLock<Postgres> = LazyLock::new(|| {
            let start = || Postgres::start_blocking(PostgresOptions::default()).expect("a database server");
            std::thread::spawn(start).join().expect("the server starts")
        });
        let flavor = match shared {
            Shared::MySql => Flavor::MySql,
            Shared::MariaDb | Shared::Postgres => Flavor::MariaDb,
        };
        let pair = concord_tests::pair(flavor).await?;
        let store = format!("concord{}", STORES.fetch_add(1, Ordering::Relaxed));
        let url = match shared {
            Shared::MySql | Shared::MariaDb => {
                pair.servers()[0].create_database(&store).await?;
                pair.servers()[0].url(&store)
            }
            Shared::Postgres => {
                let postgres = tokio::task::spawn_blocking(|| LazyLock::force(&POSTGRES).clone()).await?;
                postgres.create_database(&store).await?;
                postgres.url(&store)
            }
        };
        let coordinator =
            options.coordinator.set("store.url", url).set("cluster.lease_ms", lease.as_millis());
        let options = WorldOptions { coordinator, peers: 2, ..options };
        let banks = pair.banks(10, 1_000).await?;
        Ok(Scene { world: World::start(PROGRAMS, banks, options).await?, _pair: pair })
    }

    /// A transfer of 100, with a key.
    pub(super) fn transfer(&self) -> ExecuteRequest {
        let (name, request) = self.world.transfer(1, 100);
        ExecuteRequest { idempotency_key: name, timeout_ms: 60_000, ..request }
    }

    /// A client of all coordinators.
    pub(super) fn anywhere(&self) -> CoordinatorClient<Coordinators> {
        let urls: Vec<_> = self.world.coordinators().map(Coordinator::url).collect();
        CoordinatorClient::new(Coordinators::connect_lazy(&urls.join(",")).expect("URLs"))
    }
}

/// Executes, again and again until there is an answer, as an initiator with a key may.
pub(super) async fn insist(
    mut client: CoordinatorClient<Coordinators>,
    request: ExecuteRequest,
) -> Result<(Transfer, Transaction)> {
    let name = request.name.clone();
    let start = Instant::now();
    let answer = loop {
        match client.execute(request.clone()).await {
            Ok(answer) => break answer.into_inner(),
            Err(status) if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled) => {
                ensure!(start.elapsed() < PATIENCE, "no coordinator answers: {status}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(status) => bail!("{status}"),
        }
    };
    let outcome = Outcome::of(&Ok(answer.clone()));
    Ok((Transfer { name, outcome }, answer.transaction.expect("Execute answers with the transaction")))
}

/// How those ended that were insisted on: all of them have been told.
pub(super) async fn all_told(
    running: Vec<JoinHandle<Result<(Transfer, Transaction)>>>,
) -> Result<Vec<Transfer>> {
    let mut transfers = Vec::new();
    for one in running {
        let (transfer, transaction) = one.await??;
        ensure!(transfer.outcome != Outcome::Unknown, "{transaction:?}");
        transfers.push(transfer);
    }
    Ok(transfers)
}
