//! A bank on the participant SDK, with a door that can be told to do everything wrong.
//!
//! It is controlled by lines on its standard input, each answered by one line, `ok …` or `error …`:
//! `fault VERB FAULT`, `calls VERB`, `join GTID ACTION ENTRY`, `open GTID ACTION ENTRY`, and those of
//! [`concord_tests::points`]. At the end of its input it ends.

use std::io::{BufRead as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use concord_participant::{
    Gtid, HandlerError, Json, MySql, Options, Participant as Sdk, ParticipantServer, ParticipantService,
    TccBranch, XaBranch, attach,
};
use concord_proto::Coordinators;
use concord_proto::v1::participant_client::ParticipantClient;
use concord_proto::v1::participant_server::{Participant, ParticipantServer as Generated};
use concord_proto::v1::*;
use concord_tests::{Entry, Fault, Verb};
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tracing_subscriber::EnvFilter;

/// A participant for tests.
#[derive(Debug, Parser)]
struct Args {
    /// What the coordinator calls it: `http://IP:PORT` to listen there, `attached://NAME` to attach
    #[arg(long)]
    address: String,
    /// URL of the bank's database
    #[arg(long)]
    database: String,
    /// URL of the coordinator
    #[arg(long)]
    coordinator: String,
    /// How often to look for branches left in doubt
    #[arg(long)]
    recovery_interval_ms: u64,
    /// How long a branch prepared here is left to the coordinator
    #[arg(long)]
    recovery_safety_ms: u64,
    /// Sessions for branches
    #[arg(long)]
    sessions_max: usize,
    /// How long a branch waits for a session
    #[arg(long)]
    session_wait_ms: u64,
    /// How often to purge the barrier table; together with --retention-ms
    #[arg(long)]
    purge_interval_ms: Option<u64>,
    /// How much older than the newest row one is that may be purged
    #[arg(long)]
    retention_ms: Option<u64>,
    /// Crash point to be armed: `NAME`, `NAME:NTH`, `NAME:NTH:LINGER_MS` or `NAME:NTH:LINGER_MS:PID`
    #[arg(long)]
    crash_at: Option<String>,
}

async fn debit(mut branch: XaBranch, Json(entry): Json<Entry>) -> Result<(), HandlerError> {
    let Entry { account, amount, .. } = entry;
    let sql = "UPDATE account SET balance = balance - ? WHERE id = ? AND balance >= ?";
    if branch.exec(sql, (amount, account, amount)).await? != 1 {
        return Err(HandlerError::refused(format!("insufficient funds in account {account}")));
    }
    record(&mut branch, &entry, -amount)
}

async fn credit(mut branch: XaBranch, Json(entry): Json<Entry>) -> Result<(), HandlerError> {
    let sql = "UPDATE account SET balance = balance + ? WHERE id = ?";
    branch.queue(sql, (entry.amount, entry.account), 1)?;
    record(&mut branch, &entry, entry.amount)
}

/// A ledger row and nothing else: many of these do not wait for each other.
async fn insert(mut branch: XaBranch, Json(entry): Json<Entry>) -> Result<(), HandlerError> {
    record(&mut branch, &entry, 0)
}

fn record(branch: &mut XaBranch, entry: &Entry, amount: i64) -> Result<(), HandlerError> {
    let (gtid, id) = (branch.gtid().map(|gtid| gtid.to_string()), branch.branch_id().map(|id| id.0));
    let sql = "INSERT INTO ledger (gtid, branch, transfer, account, amount) VALUES (?, ?, ?, ?, ?)";
    Ok(branch.queue(sql, (gtid, id, &entry.transfer, entry.account, amount), 1)?)
}

/// Money is taken out of the account and held; Confirm books it, Cancel puts it back.
mod hold {
    use super::*;

    pub(super) async fn attempt(mut tcc: Tcc, Json(entry): Json<Entry>) -> Result<(), HandlerError> {
        let Entry { account, amount, .. } = entry;
        let sql = "UPDATE account SET balance = balance - ?, held = held + ? WHERE id = ? AND balance >= ?";
        if tcc.execute(sql, vec![amount.into(), amount.into(), account.into(), amount.into()]).await? != 1 {
            return Err(HandlerError::refused(format!("insufficient funds in account {account}")));
        }
        Ok(())
    }

    pub(super) async fn confirm(mut tcc: Tcc, Json(entry): Json<Entry>) -> Result<(), HandlerError> {
        let Entry { account, amount, .. } = entry;
        let sql = "UPDATE account SET held = held - ? WHERE id = ? AND held >= ?";
        if tcc.execute(sql, vec![amount.into(), account.into(), amount.into()]).await? != 1 {
            return Err(HandlerError::refused(format!("nothing is held in account {account}")));
        }
        book(&mut tcc, &entry, -amount).await
    }

    pub(super) async fn cancel(mut tcc: Tcc, Json(entry): Json<Entry>) -> Result<(), HandlerError> {
        let Entry { account, amount, .. } = entry;
        let sql = "UPDATE account SET held = held - ?, balance = balance + ? WHERE id = ?";
        tcc.execute(sql, vec![amount.into(), amount.into(), account.into()]).await?;
        Ok(())
    }
}

/// Money is promised to the account; Confirm books it, Cancel takes the promise back.
mod promise {
    use super::*;

    pub(super) async fn attempt(mut tcc: Tcc, Json(entry): Json<Entry>) -> Result<(), HandlerError> {
        let sql = "UPDATE account SET promised = promised + ? WHERE id = ?";
        if tcc.execute(sql, vec![entry.amount.into(), entry.account.into()]).await? != 1 {
            return Err(HandlerError::refused(format!("there is no account {}", entry.account)));
        }
        Ok(())
    }

    pub(super) async fn confirm(mut tcc: Tcc, Json(entry): Json<Entry>) -> Result<(), HandlerError> {
        let Entry { account, amount, .. } = entry;
        let sql = "UPDATE account SET promised = promised - ?, balance = balance + ? WHERE id = ?";
        tcc.execute(sql, vec![amount.into(), amount.into(), account.into()]).await?;
        book(&mut tcc, &entry, amount).await
    }

    pub(super) async fn cancel(mut tcc: Tcc, Json(entry): Json<Entry>) -> Result<(), HandlerError> {
        let sql = "UPDATE account SET promised = promised - ? WHERE id = ?";
        tcc.execute(sql, vec![entry.amount.into(), entry.account.into()]).await?;
        Ok(())
    }
}

type Tcc = TccBranch<MySql>;

async fn book(tcc: &mut Tcc, entry: &Entry, amount: i64) -> Result<(), HandlerError> {
    let (gtid, id) = (tcc.gtid().to_string(), tcc.branch_id().0);
    let sql = "INSERT INTO ledger (gtid, branch, transfer, account, amount) VALUES (?, ?, ?, ?, ?)";
    let row = vec![gtid.into(), id.into(), (&entry.transfer).into(), entry.account.into(), amount.into()];
    tcc.execute(sql, row).await?;
    Ok(())
}

/// What comes of each verb's calls, and how many there were.
struct Door {
    faults: [watch::Sender<Fault>; Verb::ALL.len()],
    calls: [std::sync::atomic::AtomicU64; Verb::ALL.len()],
}

/// The SDK's own service, called in this process.
type Inner = ParticipantClient<Generated<ParticipantService>>;

/// The participant, behind the door.
#[derive(Clone)]
struct Guarded {
    inner: Inner,
    door: Arc<Door>,
}

impl Guarded {
    async fn pass<T, F>(&self, verb: Verb, call: impl FnOnce(Inner) -> F) -> Result<Response<T>, Status>
    where
        T: Default + Send + 'static,
        F: Future<Output = Result<Response<T>, Status>> + Send + 'static,
    {
        self.door.calls[verb as usize].fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let mut fault = self.door.faults[verb as usize].subscribe();
        let call = call(self.inner.clone());
        let now = *fault.borrow_and_update();
        match now {
            Fault::None => call.await,
            Fault::Unavailable => Err(Status::unavailable("a fault of the test's: not done")),
            Fault::Garbage => Ok(Response::new(T::default())),
            Fault::Refused => Err(Status::invalid_argument("a fault of the test's: refused")),
            Fault::Silent => std::future::pending().await,
            Fault::Gate => {
                let late = tokio::spawn(async move {
                    // The sender lives as long as the process.
                    fault.changed().await.ok();
                    call.await
                });
                late.await.map_err(|error| Status::internal(error.to_string()))?
            }
            Fault::LostReply => {
                call.await?;
                Err(Status::unavailable("a fault of the test's: done, the answer is lost"))
            }
            Fault::ExitBefore => die(),
            Fault::ExitAfter => {
                let _ = call.await;
                die()
            }
        }
    }
}

/// Ends as by SIGKILL.
fn die() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

#[tonic::async_trait]
impl Participant for Guarded {
    async fn work(&self, request: Request<WorkRequest>) -> Result<Response<WorkResponse>, Status> {
        self.pass(Verb::Work, |mut inner| async move { inner.work(request).await }).await
    }

    async fn prepare(&self, request: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        self.pass(Verb::Prepare, |mut inner| async move { inner.prepare(request).await }).await
    }

    async fn commit(
        &self,
        request: Request<CommitBranchRequest>,
    ) -> Result<Response<CommitBranchResponse>, Status> {
        self.pass(Verb::Commit, |mut inner| async move { inner.commit(request).await }).await
    }

    async fn rollback(
        &self,
        request: Request<RollbackBranchRequest>,
    ) -> Result<Response<RollbackBranchResponse>, Status> {
        self.pass(Verb::Rollback, |mut inner| async move { inner.rollback(request).await }).await
    }

    async fn r#try(&self, request: Request<TryRequest>) -> Result<Response<TryResponse>, Status> {
        self.pass(Verb::Try, |mut inner| async move { inner.r#try(request).await }).await
    }

    async fn confirm(&self, request: Request<ConfirmRequest>) -> Result<Response<ConfirmResponse>, Status> {
        self.pass(Verb::Confirm, |mut inner| async move { inner.confirm(request).await }).await
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        self.pass(Verb::Cancel, |mut inner| async move { inner.cancel(request).await }).await
    }
}

/// Carries out one line of the test's.
async fn obey(line: &str, door: &Door, sdk: &Sdk) -> Result<String> {
    if let Some(answer) = concord_tests::points::obey(line) {
        return answer;
    }
    let mut words = line.splitn(4, ' ');
    let mut word = || words.next().with_context(|| format!("a word is missing in {line:?}"));
    let parsed = |text: &str| text.parse::<Verb>().map_err(anyhow::Error::msg);
    let order = word()?;
    match order {
        "fault" => {
            let verb = parsed(word()?)?;
            door.faults[verb as usize].send_replace(word()?.parse().map_err(anyhow::Error::msg)?);
            Ok(String::new())
        }
        "calls" => {
            let verb = parsed(word()?)?;
            Ok(door.calls[verb as usize].load(std::sync::atomic::Ordering::SeqCst).to_string())
        }
        "join" | "open" => {
            let gtid: Gtid = word()?.parse()?;
            let action = word()?.to_owned();
            let entry: Entry = serde_json::from_str(word()?)?;
            if matches!(action.as_str(), "hold" | "promise") {
                sdk.tcc_branch(gtid).run(&action, entry.payload()).await?;
                return Ok(String::new());
            }
            let entry = Json(entry);
            let run = |branch| async move {
                match action.as_str() {
                    "debit" => debit(branch, entry).await,
                    "credit" => credit(branch, entry).await,
                    _ => insert(branch, entry).await,
                }
            };
            let branch = sdk.branch(gtid);
            let branch = if order == "open" { branch.strict() } else { branch };
            branch.run(run).await?;
            Ok(String::new())
        }
        _ => anyhow::bail!("not understood: {line:?}"),
    }
}

/// Obeys until the test is gone.
fn control(door: Arc<Door>, sdk: Sdk, runtime: tokio::runtime::Handle) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            match runtime.block_on(obey(&line, &door, &sdk)) {
                Ok(answer) => say(format!("ok {answer}").trim_end()),
                Err(error) => say(&format!("error {error:#}").replace('\n', " ")),
            }
        }
        die()
    });
}

fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    // Without a reader nobody misses it.
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    args.crash_at.as_deref().map(concord_tests::points::arm).transpose()?;
    let filter = EnvFilter::try_new("info,concord_participant=debug,concord_xa=debug")?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let options = Options {
        sessions_max: args.sessions_max,
        session_wait: Duration::from_millis(args.session_wait_ms),
        connect_timeout: Duration::from_secs(2),
        control_timeout: Duration::from_secs(2),
        lock_wait: Duration::from_secs(2),
        ..Options::default()
    };
    let ms = Duration::from_millis;
    let mut builder = ParticipantServer::builder();
    if let (Some(interval), Some(retention)) = (args.purge_interval_ms, args.retention_ms) {
        builder = builder.purge(ms(interval), ms(retention));
    }
    let server = builder
        .database(&args.database)
        .database_options(options)
        .coordinator(&args.coordinator)
        .address(&args.address)
        .recovery(ms(args.recovery_interval_ms), ms(args.recovery_safety_ms))
        .xa("debit", debit)
        .xa("credit", credit)
        .xa("insert", insert)
        .tcc("hold", hold::attempt, hold::confirm, hold::cancel)
        .tcc("promise", promise::attempt, promise::confirm, promise::cancel)
        .build()
        .await?;
    let door = Arc::new(Door {
        faults: std::array::from_fn(|_| watch::Sender::new(Fault::None)),
        calls: Default::default(),
    });
    let inner = ParticipantClient::new(server.service()).max_decoding_message_size(usize::MAX);
    let guarded = Guarded { inner, door: Arc::clone(&door) };
    let listening = args.address.strip_prefix("http://");
    let listener = match listening {
        Some(socket) => Some(tokio::net::TcpListener::bind(socket).await?),
        None => None,
    };
    say("ready");
    control(door, server.participant(), tokio::runtime::Handle::current());
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let stop = async move {
        terminate.recv().await;
    };
    match listener {
        Some(listener) => {
            let incoming = tonic::transport::server::TcpIncoming::from(listener);
            let guarded = Generated::new(guarded).max_decoding_message_size(2 << 20);
            let router = Server::builder().tcp_nodelay(true).add_service(guarded);
            router.serve_with_incoming_shutdown(incoming, stop).await?;
        }
        None => {
            let coordinators = Coordinators::connect_lazy(&args.coordinator)?;
            attach(guarded, coordinators, args.address.clone(), stop).await;
        }
    }
    server.shutdown().await;
    Ok(())
}
