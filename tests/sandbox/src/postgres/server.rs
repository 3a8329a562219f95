//! One PostgreSQL server: its options and its life.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio_postgres::{Config, NoTls};

use super::{
    account,
    installation::{PostgresInstallation, locate_postgres},
    launch::{self, PidFile},
    template::{self, USER},
};
use crate::{
    Environment, Error, Product, Result, Version,
    launch::{log_since, log_tail},
    port::ReservedPort,
    processes,
    progress::Progress,
    rundir::{self, RunDir, Watcher},
    server::{
        Failure, POLL_EVERY, PORT_ATTEMPTS_MAX, REBIND_ATTEMPTS_MAX, REBIND_PAUSE, exit_status, off_runtime,
    },
};

/// How long it may take to end at once, which it does without writing anything but a line of its log.
const QUIT_WITHIN: Duration = Duration::from_secs(10);

/// How to start a PostgreSQL server. The defaults are durable: every acknowledged commit is on disk.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PostgresOptions {
    /// Connections that the server accepts at the same time. 300 by default.
    pub max_connections: u32,
    /// Further arguments for the server, such as `--lock_timeout=2s`. They come last and so win over the sandbox's
    /// own.
    pub args: Vec<String>,
    /// Leave the data directory and the log behind when the [`Postgres`] is dropped. The process ends all the same.
    pub keep_data: bool,
    /// How long a start or restart may take until the server answers. 60 s by default.
    pub ready_timeout: Duration,
}

impl Default for PostgresOptions {
    fn default() -> PostgresOptions {
        PostgresOptions {
            max_connections: 300,
            args: Vec::new(),
            keep_data: false,
            ready_timeout: Duration::from_secs(60),
        }
    }
}

impl PostgresOptions {
    /// Sets how many connections the server accepts at the same time.
    #[must_use]
    pub fn max_connections(mut self, connections: u32) -> PostgresOptions {
        self.max_connections = connections;
        self
    }

    /// Adds an argument for the server.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> PostgresOptions {
        self.args.push(argument.into());
        self
    }

    /// Leaves the data directory behind, or not.
    #[must_use]
    pub fn keep_data(mut self, keep: bool) -> PostgresOptions {
        self.keep_data = keep;
        self
    }

    /// Sets how long a start may take.
    #[must_use]
    pub fn ready_timeout(mut self, timeout: Duration) -> PostgresOptions {
        self.ready_timeout = timeout;
        self
    }
}

/// A PostgreSQL server, ready for connections as `postgres` without a password. It is always a private one.
///
/// Cloning is cheap and gives another handle to the same server. When the last handle is dropped, the server is
/// ended and its data directory removed. All calls may be made from any thread; calls that change the server's
/// state wait for each other.
#[derive(Clone, Debug)]
pub struct Postgres(Arc<Private>);

/// Fields are dropped in order: first the processes end, then their directory and port go.
#[derive(Debug)]
struct Private {
    /// `None` after it was killed or stopped.
    process: Mutex<Option<Running>>,
    _segment: Segment,
    run: RunDir,
    port: ReservedPort,
    installation: PostgresInstallation,
    options: PostgresOptions,
}

/// A server's processes. Dropping it ends them without a checkpoint, but lets the server clean up after itself.
#[derive(Debug)]
struct Running {
    postmaster: Child,
    /// Dropped after the postmaster is gone.
    _watcher: Watcher,
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = self.postmaster.id();
        let started = Instant::now();
        // Not after it has been reaped: the number may belong to another process by then.
        if matches!(self.postmaster.try_wait(), Ok(None)) {
            processes::signal(pid, Signal::QUIT);
            // Frozen processes take their signals when they go on.
            processes::thaw(pid);
            while matches!(self.postmaster.try_wait(), Ok(None)) {
                if started.elapsed() > QUIT_WITHIN {
                    processes::kill_all(pid);
                    break;
                }
                thread::sleep(POLL_EVERY);
            }
        }
        self.postmaster.wait().ok();
    }
}

/// The shared memory segment that a killed server leaves in the system. It goes when that server starts again; if
/// it never does, it goes here.
#[derive(Debug)]
struct Segment {
    data: PathBuf,
}

impl Drop for Segment {
    fn drop(&mut self) {
        let Some(number) = PidFile::read(&self.data).and_then(|file| file.segment()) else { return };
        let mut ipcrm = Command::new("ipcrm");
        ipcrm
            .args(["-m", &number.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Err(error) = ipcrm.status() {
            tracing::debug!(%error, number, "a shared memory segment of 56 bytes is left");
        }
    }
}

impl Postgres {
    /// Starts a server and returns when it answers. The first start on a machine may have to fetch PostgreSQL,
    /// which takes from seconds to minutes and is reported on stderr.
    ///
    /// # Errors
    /// [`Error::NoServer`] if there is none, [`Error::BadSetting`] if `CONCORD_SANDBOX_POSTGRES` names something unusable,
    /// [`Error::NotReady`] with the end of its log if it does not come up.
    pub async fn start(options: PostgresOptions) -> Result<Postgres> {
        off_runtime(move || Postgres::start_blocking(options)).await
    }

    /// [`start`](Self::start), blocking.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_blocking(options: PostgresOptions) -> Result<Postgres> {
        Postgres::start_in(&Environment::from_process(), options)
    }

    /// [`start_blocking`](Self::start_blocking) with other surroundings than this process's own.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_in(env: &Environment, options: PostgresOptions) -> Result<Postgres> {
        rundir::sweep(env)?;
        let installation = locate_postgres(env)?;
        Postgres::start_installed(env, installation, options)
    }

    /// [`start_in`](Self::start_in) with this installation, whatever else there is.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_installed(
        env: &Environment,
        installation: PostgresInstallation,
        options: PostgresOptions,
    ) -> Result<Postgres> {
        let template = template::ensure(env, &installation)?;
        let _progress = Progress::new(format!("starting {}", installation.name()));
        let run = RunDir::create(env, options.keep_data)?;
        template::copy(&template, &run.data())?;
        let mut attempt = 1;
        loop {
            let port = ReservedPort::take(&env.run_dir)?;
            match launch_and_wait(&installation, &options, &run, port.number) {
                Ok(running) => {
                    let process = Mutex::new(Some(running));
                    let _segment = Segment { data: run.data() };
                    return Ok(Postgres(Arc::new(Private {
                        process,
                        _segment,
                        run,
                        port,
                        installation,
                        options,
                    })));
                }
                Err(Failure::PortTaken(_)) if attempt < PORT_ATTEMPTS_MAX => attempt += 1,
                Err(Failure::PortTaken(error) | Failure::Other(error)) => return Err(error),
            }
        }
    }

    /// Its version; the patch number is always 0, because PostgreSQL's versions have two numbers.
    pub fn version(&self) -> Version {
        self.0.installation.version
    }

    /// The URL of a database on this server, such as `postgres://postgres@127.0.0.1:25123/concord`; with an empty
    /// name, of the database `postgres`, which is always there. Others are not created: see
    /// [`create_database`](Self::create_database).
    pub fn url(&self, database: &str) -> String {
        let database = if database.is_empty() { "postgres" } else { database };
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port())
    }

    /// The port it listens on, also while it is down.
    pub fn port(&self) -> u16 {
        self.0.port.number
    }

    /// The server's first process (the postmaster), or `None` if it is not running.
    pub fn pid(&self) -> Option<u32> {
        let mut process = self.0.lock();
        let running = process.as_mut()?;
        matches!(running.postmaster.try_wait(), Ok(None)).then(|| running.postmaster.id())
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.0.run.data()
    }

    /// The end of its log, for a test's failure message.
    pub fn log_tail(&self) -> String {
        log_tail(&self.0.run.log(), 0)
    }

    /// Kills all processes of the server with SIGKILL, as a crash would, and returns when they are gone. Its data and
    /// its port stay; [`restart`](Self::restart) brings it back. Does nothing if it is not running. Takes
    /// milliseconds.
    pub fn kill9(&self) {
        let mut process = self.0.lock();
        if let Some(mut running) = process.take() {
            if matches!(running.postmaster.try_wait(), Ok(None)) {
                processes::kill_all(running.postmaster.id());
            }
            running.postmaster.wait().ok();
        }
        self.0.run.forget_server_pid();
    }

    /// Starts the server again on the same data and the same port and returns when it answers, after crash recovery
    /// if it was killed. If it is still running, it is stopped cleanly first.
    ///
    /// # Errors
    /// [`Error::NotReady`] if it does not come back.
    pub async fn restart(&self) -> Result<()> {
        let server = self.clone();
        off_runtime(move || server.restart_blocking()).await
    }

    /// [`restart`](Self::restart), blocking.
    ///
    /// # Errors
    /// As [`restart`](Self::restart).
    pub fn restart_blocking(&self) -> Result<()> {
        let Private { installation, options, run, port, .. } = &*self.0;
        let mut process = self.0.lock();
        self.0.stop(&mut process)?;
        let _progress = Progress::new(format!("restarting {}", installation.name()));
        let mut attempt = 1;
        loop {
            match launch_and_wait(installation, options, run, port.number) {
                Ok(running) => {
                    *process = Some(running);
                    return Ok(());
                }
                Err(Failure::PortTaken(_)) if attempt < REBIND_ATTEMPTS_MAX => attempt += 1,
                Err(Failure::PortTaken(error) | Failure::Other(error)) => return Err(error),
            }
            thread::sleep(REBIND_PAUSE);
        }
    }

    /// Stops the server cleanly (a "fast shutdown": clients are sent away, and a checkpoint is made) and returns when
    /// it is gone. Its data and its port stay. Does nothing if it is not running.
    ///
    /// # Errors
    /// [`Error::StopTimedOut`] if it had to be killed.
    pub async fn stop(&self) -> Result<()> {
        let server = self.clone();
        off_runtime(move || server.stop_blocking()).await
    }

    /// [`stop`](Self::stop), blocking.
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub fn stop_blocking(&self) -> Result<()> {
        self.0.stop(&mut self.0.lock())
    }

    /// Freezes all processes of the server (SIGSTOP) and returns when they stand still: connections stay open,
    /// connection attempts are still accepted by the kernel, and nothing is answered. That is what a stalled machine
    /// looks like.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn pause(&self) -> Result<()> {
        let mut process = self.0.lock();
        let pid = alive(&mut process, "pause")?;
        if processes::freeze(pid) {
            return Ok(());
        }
        alive(&mut process, "pause")?;
        Err(Error::Io {
            what: "wait for SIGSTOP to take effect".into(),
            source: std::io::ErrorKind::TimedOut.into(),
        })
    }

    /// Lets a frozen server go on (SIGCONT).
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn resume(&self) -> Result<()> {
        let mut process = self.0.lock();
        processes::thaw(alive(&mut process, "resume")?);
        Ok(())
    }

    /// Creates a database if it does not exist.
    ///
    /// # Errors
    /// [`Error::Postgres`] with the server's answer.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        let config: Config = self.url("").parse()?;
        let (client, connection) = config.connect(NoTls).await?;
        let statements = async move {
            let known = client.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&name]).await?;
            if known.is_none() {
                client.batch_execute(&format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""))).await?;
            }
            // Without its client the connection ends.
            drop(client);
            Ok(())
        };
        tokio::try_join!(statements, connection)?;
        Ok(())
    }
}

impl Private {
    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, process: &mut Option<Running>) -> Result<()> {
        let Some(mut running) = process.take() else { return Ok(()) };
        let started = Instant::now();
        let pid = running.postmaster.id();
        let mut ended = exit_status(&mut running.postmaster)?;
        if ended.is_none() {
            processes::signal(pid, Signal::INT);
            processes::thaw(pid);
        }
        while ended.is_none() && started.elapsed() < self.options.ready_timeout {
            thread::sleep(POLL_EVERY);
            ended = exit_status(&mut running.postmaster)?;
        }
        drop(running);
        self.run.forget_server_pid();
        match ended {
            Some(_) => Ok(()),
            None => {
                Err(Error::StopTimedOut { waited: started.elapsed(), log_tail: log_tail(&self.run.log(), 0) })
            }
        }
    }
}

/// Starts the server and waits until it says that it is ready.
fn launch_and_wait(
    installation: &PostgresInstallation,
    options: &PostgresOptions,
    run: &RunDir,
    port: u16,
) -> Result<Running, Failure> {
    let started = Instant::now();
    let (log, data) = (run.log(), run.data());
    let log_start = fs::metadata(&log).map_or(0, |meta| meta.len());
    let postmaster = launch::spawn(installation, options, run, port)?;
    let pid = postmaster.id();
    let watcher = run.watch(pid, &run.postgres_data_arg(), Signal::QUIT);
    let mut running = Running { postmaster, _watcher: watcher };
    run.write_server_pid(pid)?;
    let not_ready = |reason: String| Error::NotReady {
        product: Product::Postgres,
        port,
        waited: started.elapsed(),
        reason,
        log_tail: log_tail(&log, log_start),
    };
    loop {
        if let Some(status) = exit_status(&mut running.postmaster)? {
            run.forget_server_pid();
            let written = log_since(&log, log_start);
            let error = not_ready(format!("it ended ({status}){}", account::hint(&written)));
            let taken = launch::is_port_taken(&written);
            return Err(if taken { Failure::PortTaken(error) } else { Failure::Other(error) });
        }
        if PidFile::read(&data).is_some_and(|file| file.is_ready(pid)) {
            tracing::debug!(pid, port, elapsed = ?started.elapsed(), "server is ready");
            return Ok(running);
        }
        if started.elapsed() > options.ready_timeout {
            return Err(Failure::Other(not_ready("it has not said that it is ready".into())));
        }
        thread::sleep(POLL_EVERY);
    }
}

/// The postmaster's number, if it runs.
fn alive(process: &mut Option<Running>, operation: &'static str) -> Result<u32> {
    let running = process.as_mut().ok_or(Error::NotRunning { operation })?;
    match exit_status(&mut running.postmaster)? {
        None => Ok(running.postmaster.id()),
        Some(_) => Err(Error::NotRunning { operation }),
    }
}
