//! A participant over real gRPC and a real database, and a coordinator that says what the test wants.
#![allow(unreachable_pub)] // Each file is a module of the test binary, and `pub` is how modules share.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

pub use bytes::Bytes;
pub use concord_participant::*;
pub use concord_proto::v1::coordinator_server::{Coordinator, CoordinatorServer};
pub use concord_proto::v1::participant_client::ParticipantClient;
pub use concord_proto::v1::*;
pub use concord_protocol::Epoch;
pub use concord_sandbox::{Flavor, Server, ServerOptions};
use mysql_async::Conn;
pub use mysql_async::prelude::Queryable as _;
pub use mysql_async::{Opts, OptsBuilder};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Channel;
pub use tonic::{Code, Request, Response, Status};

pub const CLUSTER: u64 = 0xC0_FFEE;

fn start(flavor: Flavor) -> Server {
    // A thread of its own: the blocking twin must not run inside a runtime.
    std::thread::spawn(move || Server::start_blocking(ServerOptions::new(flavor)).expect("a database server"))
        .join()
        .expect("the server starts")
}

static MYSQL: LazyLock<Server> = LazyLock::new(|| start(Flavor::MySql));
static MARIADB: LazyLock<Server> = LazyLock::new(|| start(Flavor::MariaDb));

pub fn server(flavor: Flavor) -> &'static Server {
    match flavor {
        Flavor::MySql => &MYSQL,
        Flavor::MariaDb => &MARIADB,
    }
}

/// What the coordinator answers, and what it was told.
#[derive(Default)]
pub struct Script {
    pub outcomes: Mutex<HashMap<String, Outcome>>,
    /// Transactions that have ended on every branch.
    pub ended: Mutex<HashSet<String>>,
    pub registered: Mutex<Vec<RegisterBranchRequest>>,
    pub votes: Mutex<Vec<ReportVoteRequest>>,
    /// What came with registrations and votes.
    pub traces: Mutex<Vec<Option<TraceContext>>>,
    /// Answer RegisterBranch and ReportVote with TRANSACTION_NOT_ACTIVE.
    pub over: std::sync::atomic::AtomicBool,
    pub vote_over: std::sync::atomic::AtomicBool,
}

pub struct Fake(pub Arc<Script>);

fn not_active() -> Status {
    concord_proto::status::with_reason(Code::FailedPrecondition, "TRANSACTION_NOT_ACTIVE", "it is over")
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in this test"))
}

#[tonic::async_trait]
impl Coordinator for Fake {
    type WatchStream = tokio_stream::Empty<Result<WatchResponse, Status>>;

    async fn register_branch(
        &self,
        request: Request<RegisterBranchRequest>,
    ) -> Result<Response<RegisterBranchResponse>, Status> {
        if self.0.over.load(Ordering::SeqCst) {
            return Err(not_active());
        }
        self.0.traces.lock().unwrap().push(TraceContext::of(request.metadata()));
        let request = request.into_inner();
        let mut registered = self.0.registered.lock().unwrap();
        let same = |known: &&RegisterBranchRequest| known.gtid == request.gtid;
        let known = registered
            .iter()
            .filter(same)
            .position(|known| known.registration_key == request.registration_key);
        let branch_id = match known {
            Some(index) => index + 1,
            None => {
                registered.push(request.clone());
                registered.iter().filter(same).count()
            }
        };
        let branch_id = u32::try_from(branch_id).unwrap();
        Ok(Response::new(RegisterBranchResponse { branch_id, cluster_id: CLUSTER, remaining_ms: 30_000 }))
    }

    async fn report_vote(
        &self,
        request: Request<ReportVoteRequest>,
    ) -> Result<Response<ReportVoteResponse>, Status> {
        if self.0.vote_over.load(Ordering::SeqCst) {
            return Err(not_active());
        }
        self.0.traces.lock().unwrap().push(TraceContext::of(request.metadata()));
        self.0.votes.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ReportVoteResponse {}))
    }

    async fn inquire(&self, request: Request<InquireRequest>) -> Result<Response<InquireResponse>, Status> {
        let outcomes = self.0.outcomes.lock().unwrap();
        let of = |gtid: &String| outcomes.get(gtid).copied().unwrap_or(Outcome::Undecided).into();
        let gtids = request.into_inner().gtids;
        let outcomes = gtids.iter().map(of).collect();
        let known = self.0.ended.lock().unwrap();
        let ended = gtids.iter().map(|gtid| known.contains(gtid)).collect();
        Ok(Response::new(InquireResponse { outcomes, cluster_id: CLUSTER, ended }))
    }

    async fn begin(&self, _: Request<BeginRequest>) -> Result<Response<BeginResponse>, Status> {
        unused()
    }
    async fn commit(&self, _: Request<CommitRequest>) -> Result<Response<CommitResponse>, Status> {
        unused()
    }
    async fn rollback(&self, _: Request<RollbackRequest>) -> Result<Response<RollbackResponse>, Status> {
        unused()
    }
    async fn execute(&self, _: Request<ExecuteRequest>) -> Result<Response<ExecuteResponse>, Status> {
        unused()
    }
    async fn get(&self, _: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        unused()
    }
    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        unused()
    }
    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        unused()
    }
}

/// Counts handler runs, and holds those that ask to be held.
#[derive(Default)]
pub struct Probe {
    pub runs: AtomicUsize,
    pub entered: Notify,
    pub leave: Notify,
}

/// One process of a participant.
pub struct Node {
    pub client: ParticipantClient<Channel>,
    pub participant: Participant,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
}

impl Node {
    /// Stops it as an operator would.
    pub async fn stop(self) {
        let Node { client, participant, stop, served } = self;
        drop(client);
        drop(participant);
        stop.send(()).unwrap();
        served.await.unwrap();
    }
}

pub struct World {
    pub url: String,
    pub plain: Conn,
    pub script: Arc<Script>,
    pub probe: Arc<Probe>,
    pub coordinator: String,
}

static NAMES: AtomicU32 = AtomicU32::new(0);
static SEQUENCE: AtomicU64 = AtomicU64::new(1);

pub fn gtid() -> Gtid {
    gtid_at(BEGUN_MS)
}

/// When all gtids were issued, unless a test says otherwise.
pub const BEGUN_MS: u64 = 1_700_000_000_000;

pub fn gtid_at(unix_ms: u64) -> Gtid {
    Gtid::compose(unix_ms, Epoch(1), SEQUENCE.fetch_add(1, Ordering::Relaxed))
}

impl World {
    pub async fn new(flavor: Flavor) -> Self {
        World::on(server(flavor)).await
    }

    /// On a server of one's own.
    pub async fn on(server: &Server) -> Self {
        let name = format!("p{}", NAMES.fetch_add(1, Ordering::Relaxed));
        server.create_database(&name).await.expect("a database");
        let url = server.url(&name);
        let opts = OptsBuilder::from_opts(Opts::from_url(&url).unwrap()).prefer_socket(false);
        let mut plain = Conn::new(opts).await.expect("a connection");
        plain
            .query_drop(
                "CREATE TABLE account (id INT PRIMARY KEY, balance INT NOT NULL) ENGINE=InnoDB; \
                 INSERT INTO account VALUES (1, 100), (2, 100)",
            )
            .await
            .expect("tables");
        let script = Arc::new(Script::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let coordinator = format!("http://{}", listener.local_addr().unwrap());
        let service = CoordinatorServer::new(Fake(Arc::clone(&script)));
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        World { url, plain, script, probe: Arc::default(), coordinator }
    }

    /// A builder with all handlers; recovery runs on demand only.
    pub fn builder(&self) -> Builder {
        let probe = || Arc::clone(&self.probe);
        let (counted, counted_again, held) = (probe(), probe(), probe());
        ParticipantServer::builder()
            .database(&self.url)
            .database_options(Options { lock_wait: Duration::from_secs(1), ..Options::default() })
            .coordinator(&self.coordinator)
            .address("http://participant.test:7101")
            .recovery(Duration::from_secs(3_600), Duration::ZERO)
            .xa("debit", move |mut xa: XaBranch, amount: Bytes| {
                let probe = Arc::clone(&counted);
                async move {
                    probe.runs.fetch_add(1, Ordering::SeqCst);
                    let amount: u32 = std::str::from_utf8(&amount)?.parse()?;
                    let sql = "UPDATE account SET balance = balance - ? WHERE id = 1 AND balance >= ?";
                    xa.queue(sql, (amount, amount), 1)?;
                    Ok(format!("took {amount}"))
                }
            })
            .xa("broke", async |mut xa: XaBranch, flush: Bytes| {
                let sql = "UPDATE account SET balance = balance - 500 WHERE id = 1 AND balance >= 500";
                xa.queue_or_refuse(sql, (), 1, "insufficient funds")?;
                if !flush.is_empty() {
                    xa.exec("UPDATE account SET balance = balance + 500 WHERE id = 2", ()).await?;
                }
                Ok(())
            })
            .xa("slow-debit", move |mut xa: XaBranch, _: Bytes| {
                let probe = Arc::clone(&counted_again);
                async move {
                    probe.runs.fetch_add(1, Ordering::SeqCst);
                    let rows: Vec<i32> =
                        xa.query("SELECT balance FROM account WHERE id = 1 FOR UPDATE", ()).await?;
                    let left = rows[0] - 10;
                    xa.update_exactly("UPDATE account SET balance = ? WHERE id = 1", (left,), 1).await?;
                    Ok(format!("left {left}"))
                }
            })
            .xa("held", move |mut xa: XaBranch, _: Bytes| {
                let probe = Arc::clone(&held);
                async move {
                    probe.runs.fetch_add(1, Ordering::SeqCst);
                    xa.exec("UPDATE account SET balance = 0 WHERE id = 1", ()).await?;
                    probe.entered.notify_one();
                    probe.leave.notified().await;
                    Ok(())
                }
            })
            .xa("second", async |mut xa: XaBranch, _: Bytes| {
                xa.update_exactly("UPDATE account SET balance = 0 WHERE id = 2", (), 1).await?;
                Ok(())
            })
            .xa("read", async |mut xa: XaBranch, _: Bytes| {
                let row: Option<i32> = xa.query_first("SELECT balance FROM account WHERE id = 1", ()).await?;
                Ok(row.unwrap_or_default().to_string())
            })
            .xa_read_only("declared-read", async |mut xa: XaBranch, sql: Bytes| {
                let rows: Vec<i32> = xa.query(std::str::from_utf8(&sql)?, ()).await?;
                Ok(format!("{rows:?}"))
            })
            .xa("refuse", async |_: XaBranch, why: Bytes| {
                Err::<Reply, _>(HandlerError::refused(String::from_utf8_lossy(&why)))
            })
            .xa("panic", async |mut xa: XaBranch, when: Bytes| {
                if &when[..] == b"late" {
                    xa.exec("UPDATE account SET balance = 0", ()).await?;
                }
                if when.len() < 100 {
                    panic!("the author's mistake");
                }
                Ok(())
            })
            .xa("keep", async |xa: XaBranch, _: Bytes| {
                // A handler that does not let go of its branch.
                std::mem::forget(xa);
                Ok(())
            })
            .xa("big-reply", async |mut xa: XaBranch, size: Bytes| {
                xa.queue("UPDATE account SET balance = 1 WHERE id = 1", (), 1)?;
                Ok(vec![7u8; std::str::from_utf8(&size)?.parse()?])
            })
            .xa("json", async |_: XaBranch, Json(words): Json<Vec<String>>| Reply::json(&words.len()))
    }

    pub async fn node(&self) -> Node {
        self.node_of(self.builder()).await
    }

    pub async fn node_of(&self, builder: Builder) -> Node {
        let server = builder.build().await.expect("a participant");
        let participant = server.participant();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(async move {
            let router = server.router().await.unwrap();
            let stopped = async { _ = stopped.await };
            let incoming = TcpListenerStream::new(listener);
            router.serve_with_incoming_shutdown(incoming, stopped).await.unwrap();
            server.shutdown().await;
        });
        let client = ParticipantClient::connect(address).await.expect("the participant answers");
        Node { client, participant, stop, served }
    }

    /// Waits for the balance: recovery at the start may be at work at the same time as one on demand, and
    /// which of the two ends a branch is open.
    pub async fn balance_becomes(&mut self, wanted: i64) {
        let looking = async {
            while self.balance().await != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), looking).await.expect("the balance in time");
    }

    pub async fn balance(&mut self) -> i64 {
        let row: Option<i64> =
            self.plain.query_first("SELECT balance FROM account WHERE id = 1").await.unwrap();
        row.expect("an account")
    }

    pub async fn barrier(&mut self) -> Vec<u8> {
        self.plain.query("SELECT state FROM concord_barrier").await.unwrap()
    }

    pub fn runs(&self) -> usize {
        self.probe.runs.load(Ordering::SeqCst)
    }

    pub fn says(&self, gtid: Gtid, outcome: Outcome) {
        self.script.outcomes.lock().unwrap().insert(gtid.to_string(), outcome);
    }
}

pub fn context(gtid: Gtid) -> Option<BranchContext> {
    Some(BranchContext { gtid: gtid.to_string(), branch_id: 1, cluster_id: CLUSTER })
}

pub fn job(action: &str, payload: &str) -> Option<Work> {
    Some(Work { action: action.into(), payload: payload.to_owned().into() })
}

pub fn prepare(gtid: Gtid, work: Option<Work>) -> PrepareRequest {
    PrepareRequest { branch: context(gtid), work, repeated_call: false, remaining_ms: 30_000 }
}

pub fn commit(gtid: Gtid) -> CommitBranchRequest {
    CommitBranchRequest { branch: context(gtid), one_phase: false, work: None, remaining_ms: 0 }
}

pub fn one_phase(gtid: Gtid, work: Option<Work>) -> CommitBranchRequest {
    CommitBranchRequest { branch: context(gtid), one_phase: true, work, remaining_ms: 30_000 }
}

impl Node {
    pub async fn prepare(&self, request: PrepareRequest) -> PrepareResponse {
        self.client.clone().prepare(request).await.expect("an answer").into_inner()
    }

    pub async fn work(&self, gtid: Gtid, work: Option<Work>) -> WorkResponse {
        let request = WorkRequest { branch: context(gtid), work, repeated_call: false, remaining_ms: 30_000 };
        self.client.clone().work(request).await.expect("an answer").into_inner()
    }

    /// Commits, asking again while the outcome is not known, as the coordinator does.
    pub async fn commit(&self, request: CommitBranchRequest) -> CommitBranchResponse {
        loop {
            match self.client.clone().commit(request.clone()).await {
                Ok(response) => return response.into_inner(),
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
        }
    }

    pub async fn rollback(&self, gtid: Gtid) -> RollbackBranchResponse {
        loop {
            match self.client.clone().rollback(RollbackBranchRequest { branch: context(gtid) }).await {
                Ok(response) => return response.into_inner(),
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
        }
    }
}

/// Makes two tests of one: MySQL and MariaDB.
#[macro_export]
macro_rules! on_both {
    ($($(#[$doc:meta])* async fn $name:ident($flavor:ident) $body:block)*) => {$(
        $(#[$doc])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            async fn run($flavor: Flavor) $body
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mysql() { run(Flavor::MySql).await }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mariadb() { run(Flavor::MariaDb).await }
        }
    )*};
}
