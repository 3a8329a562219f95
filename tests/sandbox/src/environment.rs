//! What the sandbox takes from its surroundings, in one value, so that a test can hand it other surroundings.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

/// Where to look for servers and where to keep things. [`Environment::from_process`] is what everything uses
/// unless told otherwise; tests of the search build their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Environment {
    /// `CONCORD_TEST_MYSQL_URL`: a server that is already running.
    pub external_url: Option<String>,
    /// `CONCORD_MYSQLD`: the path of a MySQL server program.
    pub mysqld: Option<PathBuf>,
    /// `CONCORD_MARIADBD`: the path of a MariaDB server program.
    pub mariadbd: Option<PathBuf>,
    /// `CONCORD_SANDBOX_POSTGRES`: the path of a PostgreSQL server program, with its `initdb` beside it.
    pub postgres: Option<PathBuf>,
    /// Directories searched for programs: `PATH`, then the usual places of servers.
    pub program_dirs: Vec<PathBuf>,
    /// Unpacked servers and initialised data directories, kept between runs.
    pub cache_dir: PathBuf,
    /// Data directories, logs and pid files of running servers.
    pub run_dir: PathBuf,
    /// The directory of apt's configuration; its mirrors and keys are used for a private unpack. `None` forbids
    /// fetching.
    pub apt_dir: Option<PathBuf>,
    /// The file that tells the distribution's name and suite.
    pub os_release: PathBuf,
}

/// Where server programs live that are not always on a user's `PATH`.
const SERVER_DIRS: [&str; 9] = [
    "/usr/sbin",
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/libexec",
    "/usr/local/mysql/bin",
    "/opt/homebrew/opt/mysql/bin",
    "/opt/homebrew/opt/mariadb/bin",
    "/usr/local/opt/mysql/bin",
    "/usr/local/opt/mariadb/bin",
];

impl Environment {
    /// Reads the environment variables of this process (see the crate's head).
    pub fn from_process() -> Environment {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let path = |name: &str| set(name).map(PathBuf::from);
        let run_dir = path("CONCORD_SANDBOX_DIR").unwrap_or_else(default_run_dir);
        let cache_dir = path("CONCORD_SANDBOX_CACHE").unwrap_or_else(|| default_cache_dir(set, &run_dir));
        let mut program_dirs: Vec<PathBuf> =
            set("PATH").map(|dirs| env::split_paths(&dirs).collect()).unwrap_or_default();
        for dir in SERVER_DIRS.map(PathBuf::from).into_iter().chain(postgres_dirs()) {
            if !program_dirs.contains(&dir) {
                program_dirs.push(dir);
            }
        }
        let offline = set("CONCORD_SANDBOX_OFFLINE").is_some_and(|value| value != "0");
        Environment {
            external_url: env::var("CONCORD_TEST_MYSQL_URL").ok().filter(|url| !url.is_empty()),
            mysqld: path("CONCORD_MYSQLD"),
            mariadbd: path("CONCORD_MARIADBD"),
            postgres: path("CONCORD_SANDBOX_POSTGRES"),
            program_dirs,
            cache_dir,
            run_dir,
            apt_dir: (!offline).then(|| PathBuf::from("/etc/apt")),
            os_release: PathBuf::from("/etc/os-release"),
        }
    }

    /// The first file of this name in [`program_dirs`](Self::program_dirs).
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        self.program_dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file())
    }
}

/// Debian and others keep the programs of each PostgreSQL version apart. The newest comes first.
fn postgres_dirs() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (base, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
    ] {
        for entry in fs::read_dir(base).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse::<u32>().ok());
            found.extend(version.map(|version| (version, entry.path().join("bin"))));
        }
    }
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, dir)| dir).collect()
}

/// `TMPDIR` if the user chose one; else `/var/tmp`, because `/tmp` is memory on many systems and a sync there
/// costs nothing, which makes every figure a lie; else the system's idea of a temporary directory.
fn default_run_dir() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    let chosen = env::var_os("TMPDIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let base = chosen
        .or_else(|| Some(PathBuf::from("/var/tmp")).filter(|dir| is_writable(dir)))
        .unwrap_or_else(env::temp_dir);
    base.join(format!("concord-sandbox-{uid}"))
}

/// A user without a home directory (a build daemon, `nobody`) gets a cache beside the run directories.
fn default_cache_dir(set: impl Fn(&str) -> Option<OsString>, run_dir: &Path) -> PathBuf {
    let base = set("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache")));
    base.map(|base| base.join("concord").join("sandbox"))
        .filter(|dir| fs::create_dir_all(dir).is_ok() && is_writable(dir))
        .unwrap_or_else(|| run_dir.join("cache"))
}

/// Asks by trying: permission bits do not tell about read-only mounts.
fn is_writable(dir: &Path) -> bool {
    tempfile::Builder::new().prefix(".concord-").tempfile_in(dir).is_ok()
}
