//! One server: its options and its life.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use mysql_async::{Conn, Opts, prelude::Queryable};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};

use crate::{
    Environment, Error, External, Flavor, Installation, Located, Result, Version,
    error::IoContext,
    launch, locate,
    port::ReservedPort,
    probe,
    progress::Progress,
    rundir::{self, RunDir, Watcher},
    template,
};

/// Ports tried before giving up on a start.
pub(crate) const PORT_ATTEMPTS_MAX: u32 = 8;
/// Tries to get a server's own port back when it restarts; another program may be holding it for a moment.
pub(crate) const REBIND_ATTEMPTS_MAX: u32 = 20;
pub(crate) const REBIND_PAUSE: Duration = Duration::from_millis(250);
/// How long the threads of a process may take to stop, one of them in a long write at worst.
const PAUSE_MAX: Duration = Duration::from_secs(10);
pub(crate) const POLL_EVERY: Duration = Duration::from_millis(10);

/// What kind of server to start. The defaults are durable: every acknowledged commit and prepare is on disk.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Which product.
    pub flavor: Flavor,
    /// Write a binary log, synced at each commit (`sync_binlog=1`). On by default, as in production; the two
    /// profiles differ in XA's cost and in its bugs.
    pub binlog: bool,
    /// Connections that the server accepts at the same time. 2,000 by default. The server lowers it by itself if
    /// the process may not open that many files.
    pub max_connections: u32,
    /// Further arguments for the server, such as `--innodb-lock-wait-timeout=2`. They come last and so win over
    /// the sandbox's own.
    pub args: Vec<String>,
    /// Leave the data directory and the log behind when the [`Server`] is dropped. The process ends all the
    /// same.
    pub keep_data: bool,
    /// How long a start or restart may take until the server answers. 60 s by default.
    pub ready_timeout: Duration,
}

impl ServerOptions {
    /// The durable defaults, with the binary log.
    pub fn new(flavor: Flavor) -> ServerOptions {
        ServerOptions {
            flavor,
            binlog: true,
            max_connections: 2_000,
            args: Vec::new(),
            keep_data: false,
            ready_timeout: Duration::from_secs(60),
        }
    }

    /// Switches the binary log on or off.
    #[must_use]
    pub fn binlog(mut self, on: bool) -> ServerOptions {
        self.binlog = on;
        self
    }

    /// Sets how many connections the server accepts at the same time.
    #[must_use]
    pub fn max_connections(mut self, connections: u32) -> ServerOptions {
        self.max_connections = connections;
        self
    }

    /// Adds an argument for the server.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> ServerOptions {
        self.args.push(argument.into());
        self
    }

    /// Leaves the data directory behind, or not.
    #[must_use]
    pub fn keep_data(mut self, keep: bool) -> ServerOptions {
        self.keep_data = keep;
        self
    }

    /// Sets how long a start may take.
    #[must_use]
    pub fn ready_timeout(mut self, timeout: Duration) -> ServerOptions {
        self.ready_timeout = timeout;
        self
    }
}

/// A database server, ready for connections as `root` without a password.
///
/// Cloning is cheap and gives another handle to the same server. When the last handle is dropped, the server is
/// killed and its data directory removed. All calls may be made from any thread; calls that change the
/// process's state wait for each other.
#[derive(Clone, Debug)]
pub struct Server {
    flavor: Flavor,
    version: Version,
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    External(Arc<External>),
    Private(Arc<Private>),
}

/// A server of ours. Fields are dropped in order: first the process ends, then its directory and port go.
#[derive(Debug)]
struct Private {
    /// `None` after it was killed or stopped.
    process: Mutex<Option<Running>>,
    run: RunDir,
    port: ReservedPort,
    installation: Installation,
    options: ServerOptions,
}

/// A server process. Dropping it kills it.
#[derive(Debug)]
struct Running {
    child: Child,
    /// It was sent a SIGSTOP and no SIGCONT since.
    paused: bool,
    /// Dropped after the child is gone.
    _watcher: Watcher,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not after it has been reaped: the number may belong to another group by then.
        if matches!(self.child.try_wait(), Ok(None)) {
            rundir::signal_group(self.child.id(), Signal::KILL);
        }
        self.child.wait().ok();
    }
}

impl Server {
    /// Starts a server and returns when it answers. The first start on a machine may have to fetch the server
    /// program, which takes from seconds to minutes and is reported on stderr.
    ///
    /// # Errors
    /// [`Error::NoServer`] if there is none, [`Error::BadSetting`] if a `CONCORD_…` variable names something
    /// unusable, [`Error::NotReady`] with the end of its log if it does not come up.
    pub async fn start(options: ServerOptions) -> Result<Server> {
        off_runtime(move || Server::start_blocking(options)).await
    }

    /// [`start`](Self::start), blocking.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_blocking(options: ServerOptions) -> Result<Server> {
        Server::start_in(&Environment::from_process(), options)
    }

    /// [`start_blocking`](Self::start_blocking) with other surroundings than this process's own.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_in(env: &Environment, options: ServerOptions) -> Result<Server> {
        rundir::sweep(env)?;
        match locate(env, options.flavor)? {
            Located::External(external) => Ok(Server {
                flavor: external.flavor,
                version: external.version,
                backend: Backend::External(Arc::new(external)),
            }),
            Located::Installed(installation) => Server::start_private(env, installation, options),
        }
    }

    fn start_private(
        env: &Environment,
        installation: Installation,
        options: ServerOptions,
    ) -> Result<Server> {
        let template = template::ensure(env, &installation)?;
        let Installation { flavor, version, .. } = installation;
        let _progress = Progress::new(format!("starting {flavor} {version}"));
        let run = RunDir::create(env, options.keep_data)?;
        template::copy(&template, &run.data())?;
        let mut attempt = 1;
        loop {
            let port = ReservedPort::take(&env.run_dir)?;
            match launch_and_wait(&installation, &options, &run, port.number) {
                Ok(running) => {
                    let process = Mutex::new(Some(running));
                    let private = Private { process, run, port, installation, options };
                    let backend = Backend::Private(Arc::new(private));
                    return Ok(Server { flavor, version, backend });
                }
                Err(Failure::PortTaken(_)) if attempt < PORT_ATTEMPTS_MAX => attempt += 1,
                Err(Failure::PortTaken(error) | Failure::Other(error)) => return Err(error),
            }
        }
    }

    /// Which product it is.
    pub fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The URL of a database on this server, such as `mysql://root@127.0.0.1:25123/bank`; with an empty name,
    /// of the server itself. The database is not created: see [`create_database`](Self::create_database).
    pub fn url(&self, database: &str) -> String {
        match &self.backend {
            Backend::External(external) => with_database(&external.url, database),
            Backend::Private(private) => private_url(private.port.number, database),
        }
    }

    /// The port it listens on, also while it is down. For an external server the one of its URL.
    pub fn port(&self) -> u16 {
        match &self.backend {
            Backend::External(external) => Opts::from_url(&external.url).map_or(3306, |opts| opts.tcp_port()),
            Backend::Private(private) => private.port.number,
        }
    }

    /// The server's process, or `None` if it is not running or not ours.
    pub fn pid(&self) -> Option<u32> {
        let Backend::Private(private) = &self.backend else { return None };
        let mut process = private.lock();
        let running = process.as_mut()?;
        matches!(running.child.try_wait(), Ok(None)).then(|| running.child.id())
    }

    /// Whether the server can be killed and restarted: false for one named by `CONCORD_TEST_MYSQL_URL`.
    pub fn is_private(&self) -> bool {
        matches!(self.backend, Backend::Private(_))
    }

    /// Its data directory, if it is ours.
    pub fn data_dir(&self) -> Option<PathBuf> {
        match &self.backend {
            Backend::External(_) => None,
            Backend::Private(private) => Some(private.run.data()),
        }
    }

    /// The end of its error log, for a test's failure message; empty for an external server.
    pub fn log_tail(&self) -> String {
        match &self.backend {
            Backend::External(_) => String::new(),
            Backend::Private(private) => launch::log_tail(&private.run.log(), 0),
        }
    }

    /// Kills the server with SIGKILL, as a crash would, and returns when it is gone. Its data and its port stay;
    /// [`restart`](Self::restart) brings it back. Does nothing if it is not running. Takes milliseconds.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an external server.
    pub fn kill9(&self) -> Result<()> {
        let private = self.private("kill9")?;
        *private.lock() = None;
        private.run.forget_server_pid();
        Ok(())
    }

    /// Starts the server again on the same data and the same port and returns when it answers, after crash
    /// recovery if it was killed. If it is still running, it is stopped cleanly first.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an external server, [`Error::NotReady`] if it does not come back.
    pub async fn restart(&self) -> Result<()> {
        let server = self.clone();
        off_runtime(move || server.restart_blocking()).await
    }

    /// [`restart`](Self::restart), blocking.
    ///
    /// # Errors
    /// As [`restart`](Self::restart).
    pub fn restart_blocking(&self) -> Result<()> {
        let private = self.private("restart")?;
        let mut process = private.lock();
        private.stop(&mut process)?;
        let _progress = Progress::new(format!("restarting {} {}", self.flavor, self.version));
        let mut attempt = 1;
        loop {
            let port = private.port.number;
            match launch_and_wait(&private.installation, &private.options, &private.run, port) {
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

    /// Stops the server cleanly (SIGTERM) and returns when it is gone. Its data and its port stay. Does nothing
    /// if it is not running.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an external server, [`Error::StopTimedOut`] if it had to be killed.
    pub async fn stop(&self) -> Result<()> {
        let server = self.clone();
        off_runtime(move || server.stop_blocking()).await
    }

    /// [`stop`](Self::stop), blocking.
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub fn stop_blocking(&self) -> Result<()> {
        let private = self.private("stop")?;
        private.stop(&mut private.lock())
    }

    /// Freezes the server (SIGSTOP) and returns when it stands still: connections stay open, connection attempts
    /// are still accepted by the kernel, and nothing is answered. That is what a stalled machine looks like.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an external server, [`Error::NotRunning`].
    pub fn pause(&self) -> Result<()> {
        let private = self.private("pause")?;
        let mut process = private.lock();
        let running = alive(&mut process, "pause")?;
        if running.paused {
            return Ok(());
        }
        running.paused = true;
        let pid = running.child.id();
        rundir::signal_group(pid, Signal::STOP);
        // The signal is on its way when the call returns; a thread on another core may still answer a query.
        let started = Instant::now();
        while !has_stopped(pid) {
            alive(&mut process, "pause")?;
            if started.elapsed() > PAUSE_MAX {
                return Err(io::ErrorKind::TimedOut.into())
                    .context(|| "wait for SIGSTOP to take effect".into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets a frozen server go on (SIGCONT).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an external server, [`Error::NotRunning`].
    pub fn resume(&self) -> Result<()> {
        let private = self.private("resume")?;
        let mut process = private.lock();
        let running = alive(&mut process, "resume")?;
        running.paused = false;
        rundir::signal_group(running.child.id(), Signal::CONT);
        Ok(())
    }

    /// Creates a database if it does not exist.
    ///
    /// # Errors
    /// [`Error::Database`] with the server's answer.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        let opts = Opts::from_url(&self.url("")).map_err(mysql_async::Error::from)?;
        let mut conn = Conn::new(opts).await?;
        conn.query_drop(format!("CREATE DATABASE IF NOT EXISTS `{}`", name.replace('`', "``"))).await?;
        conn.disconnect().await?;
        Ok(())
    }

    fn private(&self, operation: &'static str) -> Result<&Private> {
        match &self.backend {
            Backend::External(_) => Err(Error::Unsupported { operation }),
            Backend::Private(private) => Ok(private),
        }
    }
}

impl Private {
    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, process: &mut Option<Running>) -> Result<()> {
        let Some(mut running) = process.take() else { return Ok(()) };
        let started = Instant::now();
        let pid = running.child.id();
        let mut ended = exit_status(&mut running.child)?;
        if ended.is_none() {
            rundir::signal_group(pid, Signal::TERM);
            // A frozen process takes its signals when it goes on.
            rundir::signal_group(pid, Signal::CONT);
        }
        while ended.is_none() && started.elapsed() < self.options.ready_timeout {
            thread::sleep(POLL_EVERY);
            ended = exit_status(&mut running.child)?;
        }
        drop(running);
        self.run.forget_server_pid();
        match ended {
            Some(_) => Ok(()),
            None => Err(Error::StopTimedOut {
                waited: started.elapsed(),
                log_tail: launch::log_tail(&self.run.log(), 0),
            }),
        }
    }
}

pub(crate) enum Failure {
    /// Another program bound the port between our look and the server's.
    PortTaken(Error),
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Other(error)
    }
}

/// Starts the process and waits until it answers on its port, from our data directory.
fn launch_and_wait(
    installation: &Installation,
    options: &ServerOptions,
    run: &RunDir,
    port: u16,
) -> Result<Running, Failure> {
    let started = Instant::now();
    let log = run.log();
    let log_start = fs::metadata(&log).map_or(0, |meta| meta.len());
    let child = launch::spawn(installation, options, run, port)?;
    let pid = child.id();
    let mut running =
        Running { child, paused: false, _watcher: run.watch(pid, &run.data_dir_arg(), Signal::KILL) };
    run.write_server_pid(pid)?;
    let not_ready = |reason: String| Error::NotReady {
        product: installation.flavor.into(),
        port,
        waited: started.elapsed(),
        reason,
        log_tail: launch::log_tail(&log, log_start),
    };
    loop {
        if let Some(status) = exit_status(&mut running.child)? {
            run.forget_server_pid();
            let error = not_ready(format!("it ended ({status})"));
            let taken = is_port_taken(&launch::log_since(&log, log_start));
            return Err(if taken { Failure::PortTaken(error) } else { Failure::Other(error) });
        }
        let reason = match answer_from(port, &run.data()) {
            Ok(max_connections) => {
                if max_connections < options.max_connections {
                    tracing::warn!(
                        max_connections,
                        wanted = options.max_connections,
                        "the server allows fewer connections: raise the limit of open files (ulimit -n)"
                    );
                }
                tracing::debug!(pid, port, elapsed = ?started.elapsed(), "server is ready");
                return Ok(running);
            }
            Err(reason) => reason,
        };
        if started.elapsed() > options.ready_timeout {
            return Err(Failure::Other(not_ready(reason)));
        }
        thread::sleep(POLL_EVERY);
    }
}

/// Connects, runs a query, and makes sure that the server which answers is the one on our data directory.
/// Returns the number of connections that it allows.
fn answer_from(port: u16, data: &Path) -> Result<u32, String> {
    // A plain connection first: until the port is open, there is no point in starting a client.
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).map_err(|e| e.to_string())?;
    let answer = probe::ask(&private_url(port, ""))?;
    let same = match (answer.data_dir.canonicalize(), data.canonicalize()) {
        (Ok(theirs), Ok(ours)) => theirs == ours,
        _ => false,
    };
    if same { Ok(answer.max_connections) } else { Err(format!("another server answers on port {port}")) }
}

/// Both products say this in English; messages come from their own files, not from the locale.
fn is_port_taken(log: &str) -> bool {
    log.contains("Bind on TCP/IP port") || log.contains("Do you already have another")
}

fn alive<'a>(process: &'a mut Option<Running>, operation: &'static str) -> Result<&'a mut Running> {
    let running = process.as_mut().ok_or(Error::NotRunning { operation })?;
    match exit_status(&mut running.child)? {
        None => Ok(running),
        Some(_) => Err(Error::NotRunning { operation }),
    }
}

/// Whether all threads of our child have stopped. Asks about stops only, so that its exit status stays where the
/// standard library expects it.
fn has_stopped(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
    matches!(waitid(WaitId::Pid(pid), options), Ok(Some(_)))
}

pub(crate) fn exit_status(child: &mut Child) -> Result<Option<ExitStatus>> {
    child.try_wait().context(|| "look at the server process".into())
}

fn private_url(port: u16, database: &str) -> String {
    format!("mysql://root@127.0.0.1:{port}/{database}")
}

/// Replaces the database in a URL and keeps its parameters.
fn with_database(url: &str, database: &str) -> String {
    let (address, parameters) = match url.split_once('?') {
        Some((address, parameters)) => (address, format!("?{parameters}")),
        None => (url, String::new()),
    };
    let host_start = address.find("://").map_or(0, |at| at + 3);
    let end = address[host_start..].find('/').map_or(address.len(), |at| host_start + at);
    format!("{}/{database}{parameters}", &address[..end])
}

/// Runs blocking work beside the async runtime. The work is finished even if the caller goes away; a server that
/// nobody waits for any more is dropped, and so ended.
pub(crate) async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Cancelled),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_of_a_url_is_replaced_and_its_parameters_stay() {
        let cases = [
            ("mysql://u:p@h:3306", "mysql://u:p@h:3306/bank"),
            ("mysql://u@h/old", "mysql://u@h/bank"),
            ("mysql://u@h/old?require_ssl=true", "mysql://u@h/bank?require_ssl=true"),
            ("mysql://u@h?a=b", "mysql://u@h/bank?a=b"),
        ];
        for (url, expected) in cases {
            assert_eq!(with_database(url, "bank"), expected);
        }
    }

    #[test]
    fn both_servers_ways_of_saying_that_a_port_is_taken_are_known() {
        assert!(is_port_taken(
            "[ERROR] Can't start server: Bind on TCP/IP port. Got error: 98: Address already in use"
        ));
        assert!(is_port_taken(
            "[ERROR] [MY-010257] Do you already have another mysqld server running on port: 3306 ?"
        ));
        assert!(!is_port_taken("[ERROR] unknown variable 'x=y'"));
    }
}
