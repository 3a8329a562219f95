//! PostgreSQL's programs on disk, and the search for them, in the order of the crate's head.

use std::{
    collections::HashMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
};

use serde::Serialize;

use super::template;
use crate::{
    Environment, Error, Product, Result, Source, Version,
    libraries::{self, Libraries},
    obtain::{self, Program},
};

/// The oldest that has all options that it is started with, and is in a distribution that somebody still runs.
const OLDEST: u32 = 13;

/// A PostgreSQL server program that has been run once to learn its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PostgresInstallation {
    /// Its version, by its own word; the patch number is always 0, because PostgreSQL's have two numbers.
    pub version: Version,
    /// How it was found.
    pub source: Source,
    /// The server program, `postgres`; `initdb` lies beside it.
    pub program: PathBuf,
    /// The libraries unpacked with it; `None` for an installed program, which suits the system's own.
    #[serde(skip)]
    pub(super) libraries: Option<Libraries>,
}

impl PostgresInstallation {
    /// A program that runs with the system's libraries. The error says in a few words why it will not do.
    fn installed(program: &Path, source: Source) -> Result<PostgresInstallation, String> {
        PostgresInstallation::identified(program.to_path_buf(), None, source)
    }

    /// The program in an unpacked root directory, run through the root's own loader.
    fn unpacked(root: &Path, source: Source) -> Result<PostgresInstallation, String> {
        let versions = fs::read_dir(root.join("usr/lib/postgresql")).into_iter().flatten().flatten();
        let mut programs = versions.map(|entry| entry.path().join("bin/postgres"));
        let program = programs.find(|path| path.is_file()).ok_or("there is no postgres in the packages")?;
        PostgresInstallation::identified(program, Some(Libraries::below(root)?), source)
    }

    fn identified(
        program: PathBuf,
        libraries: Option<Libraries>,
        source: Source,
    ) -> Result<PostgresInstallation, String> {
        let version = Version { major: 0, minor: 0, patch: 0 };
        let mut installation = PostgresInstallation { version, source, program, libraries };
        let output = installation
            .command("postgres")
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|e| e.to_string())?;
        let banner = String::from_utf8_lossy(&output.stdout);
        installation.version = version_of(&banner).ok_or_else(|| {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("--version gave {}: {} {}", output.status, banner.trim(), said.trim())
        })?;
        if installation.version.major < OLDEST {
            return Err(format!("{} is too old: {OLDEST} or newer is needed", installation.name()));
        }
        if !installation.sibling("initdb").is_file() {
            return Err(format!("there is no initdb beside {}", installation.program.display()));
        }
        Ok(installation)
    }

    /// For messages: `PostgreSQL 15.18`.
    pub(super) fn name(&self) -> String {
        format!("{} {}", Product::Postgres, Product::Postgres.release(self.version))
    }

    /// Another program of the same directory.
    pub(super) fn sibling(&self, name: &str) -> PathBuf {
        self.program.with_file_name(name)
    }

    /// A program of the same directory, in a plain environment.
    pub(super) fn command(&self, name: &str) -> Command {
        self.command_at(&self.sibling(name))
    }

    pub(super) fn command_at(&self, path: &Path) -> Command {
        let mut command = libraries::command(self.libraries.as_ref(), path);
        // PGDATA, PGPORT and their like are meant for another server.
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        // Messages in English, sorting by bytes, and a time zone that is known without a file.
        command.env("LC_ALL", "C").env("TZ", "GMT");
        command
    }
}

impl Program for PostgresInstallation {
    fn path(&self) -> &Path {
        &self.program
    }

    fn version(&self) -> Version {
        self.version
    }
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`; a beta, `18beta1`, counts as 18.0.
fn version_of(banner: &str) -> Option<Version> {
    let (_, tail) = banner.split_once("(PostgreSQL) ")?;
    let end = tail.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(tail.len());
    let mut numbers = tail.get(..end)?.split('.').map(|number| number.parse::<u32>().ok());
    Some(Version { major: numbers.next()??, minor: numbers.next().flatten().unwrap_or(0), patch: 0 })
}

/// Finds PostgreSQL, fetching it if the machine has none. Blocking; the first time on a machine it takes seconds to
/// minutes, and a line on stderr says so.
///
/// # Errors
/// [`Error::NoServer`] with all that was tried, [`Error::BadSetting`] if `CONCORD_SANDBOX_POSTGRES` does not work.
pub fn locate_postgres(env: &Environment) -> Result<PostgresInstallation> {
    if let Some(known) = remembered(env) {
        return Ok(known);
    }
    let mut rejected = Vec::new();
    let found = match named_by_user(env)? {
        Some(found) => found,
        None => match installed_and_working(env, &mut rejected) {
            Some(found) => found,
            None => {
                obtain::cached_or_fetched(env, Product::Postgres, rejected, &PostgresInstallation::unpacked)?
            }
        },
    };
    memo().lock().unwrap_or_else(PoisonError::into_inner).insert(env.clone(), found.clone());
    Ok(found)
}

/// Like [`locate_postgres`], but looks only: nothing is fetched and nothing is written.
///
/// # Errors
/// As [`locate_postgres`]; [`Error::NoServer`] here means that `locate_postgres` would have to fetch.
pub fn locate_postgres_cached(env: &Environment) -> Result<PostgresInstallation> {
    if let Some(found) = named_by_user(env)? {
        return Ok(found);
    }
    let mut rejected = Vec::new();
    let (product, open) = (Product::Postgres, &PostgresInstallation::unpacked);
    let found = installed(env, &mut rejected).into_iter().next();
    found
        .or_else(|| obtain::cached(env, product, Source::Cache, &mut rejected, open))
        .ok_or_else(|| obtain::no_server(product, rejected))
}

/// Makes sure that the cache holds PostgreSQL, whatever else the machine has. Blocking.
///
/// # Errors
/// [`Error::NoServer`] with what went wrong.
pub fn fetch_postgres(env: &Environment) -> Result<PostgresInstallation> {
    let open = &PostgresInstallation::unpacked;
    let installation = obtain::cached_or_fetched(env, Product::Postgres, Vec::new(), open)?;
    template::ensure(env, &installation)?;
    Ok(installation)
}

/// Once per process is enough, as for the other products.
fn memo() -> &'static Mutex<HashMap<Environment, PostgresInstallation>> {
    static MEMO: OnceLock<Mutex<HashMap<Environment, PostgresInstallation>>> = OnceLock::new();
    MEMO.get_or_init(Mutex::default)
}

fn remembered(env: &Environment) -> Option<PostgresInstallation> {
    let known = memo().lock().unwrap_or_else(PoisonError::into_inner).get(env).cloned()?;
    known.program.is_file().then_some(known)
}

fn named_by_user(env: &Environment) -> Result<Option<PostgresInstallation>> {
    let Some(path) = &env.postgres else { return Ok(None) };
    let bad = |reason| Error::BadSetting {
        variable: "CONCORD_SANDBOX_POSTGRES",
        value: path.display().to_string(),
        reason,
    };
    PostgresInstallation::installed(path, Source::Explicit).map(Some).map_err(bad)
}

/// Only a program that has made a data directory for us counts: packages may be installed in part, and a system's
/// policy may forbid it directories that are not its own.
fn installed_and_working(env: &Environment, rejected: &mut Vec<String>) -> Option<PostgresInstallation> {
    for candidate in installed(env, rejected) {
        match template::ensure(env, &candidate) {
            Ok(_) => return Some(candidate),
            Err(e) => rejected.push(e.to_string()),
        }
    }
    None
}

fn installed(env: &Environment, rejected: &mut Vec<String>) -> Vec<PostgresInstallation> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    let paths = env.program_dirs.iter().map(|dir| dir.join("postgres"));
    for path in paths.filter(|path| path.is_file()) {
        // A program finds its files by its own place, and one directory may be on PATH under two names.
        let path = path.canonicalize().unwrap_or(path);
        if seen.contains(&path) {
            continue;
        }
        match PostgresInstallation::installed(&path, Source::System) {
            Ok(installation) => found.push(installation),
            Err(reason) => rejected.push(format!("{}: {reason}", path.display())),
        }
        seen.push(path);
    }
    if seen.is_empty() {
        rejected.push("no postgres on PATH or in the usual directories".into());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banners_tell_the_version() {
        let version = |banner| version_of(banner).map(|version| Product::Postgres.release(version));
        for (banner, expected) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", "15.18"),
            ("postgres (PostgreSQL) 17.2\n", "17.2"),
            ("postgres (PostgreSQL) 18beta1\n", "18.0"),
        ] {
            assert_eq!(version(banner).as_deref(), Some(expected), "{banner}");
        }
        assert_eq!(version("mysqld  Ver 9.7.4-2 for Linux"), None);
        assert_eq!(version("postgres (PostgreSQL) devel"), None);
    }
}
