//! The search for a server, in the order of the crate's head.

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{Mutex, OnceLock, PoisonError},
};

use serde::Serialize;

use crate::{Environment, Error, Flavor, Installation, Result, Source, Version, obtain, probe, template};

/// A server that runs already and belongs to somebody else.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct External {
    /// Which product it is, by its own word.
    pub flavor: Flavor,
    /// Its version, by its own word.
    pub version: Version,
    /// May hold a password, so it is neither printed nor serialised.
    #[serde(skip)]
    pub(crate) url: String,
}

impl fmt::Debug for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("External")
            .field("flavor", &self.flavor)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Located {
    /// A running server that we may only connect to.
    External(External),
    /// A program to start private servers with.
    Installed(Installation),
}

/// Finds a server of this flavour, fetching one if the machine has none. Blocking; the first time on a machine
/// it takes seconds to minutes, and a line on stderr says so.
///
/// # Errors
/// [`Error::NoServer`] with all that was tried, [`Error::BadSetting`] if a place named by the user does not work.
pub fn locate(env: &Environment, flavor: Flavor) -> Result<Located> {
    if let Some(known) = remembered(env, flavor) {
        return Ok(known);
    }
    let mut rejected = Vec::new();
    let located = match named_by_user(env, flavor, &mut rejected)? {
        Some(located) => located,
        None => match installed_and_working(env, flavor, &mut rejected) {
            Some(installation) => Located::Installed(installation),
            None => Located::Installed(cached_or_fetched(env, flavor, rejected)?),
        },
    };
    memo().lock().unwrap_or_else(PoisonError::into_inner).insert((env.clone(), flavor), located.clone());
    Ok(located)
}

/// Like [`locate`], but looks only: nothing is fetched and nothing is written.
///
/// # Errors
/// As [`locate`]; [`Error::NoServer`] here means that `locate` would have to fetch.
pub fn locate_cached(env: &Environment, flavor: Flavor) -> Result<Located> {
    let mut rejected = Vec::new();
    if let Some(located) = named_by_user(env, flavor, &mut rejected)? {
        return Ok(located);
    }
    let found = installed(env, flavor, &mut rejected).into_iter().next();
    found
        .or_else(|| {
            let open = |root: &Path, source| unpacked(root, flavor, source);
            obtain::cached(env, flavor.into(), Source::Cache, &mut rejected, &open)
        })
        .map(Located::Installed)
        .ok_or_else(|| obtain::no_server(flavor.into(), rejected))
}

/// Makes sure that the cache holds a server of this flavour, whatever else the machine has. Blocking.
///
/// # Errors
/// [`Error::NoServer`] with what went wrong.
pub fn fetch(env: &Environment, flavor: Flavor) -> Result<Installation> {
    let installation = cached_or_fetched(env, flavor, Vec::new())?;
    template::ensure(env, &installation)?;
    Ok(installation)
}

fn cached_or_fetched(env: &Environment, flavor: Flavor, rejected: Vec<String>) -> Result<Installation> {
    obtain::cached_or_fetched(env, flavor.into(), rejected, &|root, source| unpacked(root, flavor, source))
}

/// Once per process is enough: running `--version` and checking the cache take as long as starting a server.
fn memo() -> &'static Mutex<HashMap<(Environment, Flavor), Located>> {
    static MEMO: OnceLock<Mutex<HashMap<(Environment, Flavor), Located>>> = OnceLock::new();
    MEMO.get_or_init(Mutex::default)
}

fn remembered(env: &Environment, flavor: Flavor) -> Option<Located> {
    let known = memo().lock().unwrap_or_else(PoisonError::into_inner).get(&(env.clone(), flavor)).cloned()?;
    match &known {
        Located::Installed(installation) if !installation.program.is_file() => None,
        _ => Some(known),
    }
}

fn named_by_user(env: &Environment, flavor: Flavor, rejected: &mut Vec<String>) -> Result<Option<Located>> {
    if let Some(url) = &env.external_url {
        let variable = "CONCORD_TEST_MYSQL_URL";
        let bad = |reason: String| Error::BadSetting { variable, value: "(a URL)".into(), reason };
        let answer = probe::ask(url).map_err(bad)?;
        if answer.flavor == flavor {
            require_supported(answer.flavor, answer.version).map_err(bad)?;
            let external = External { flavor, version: answer.version, url: url.clone() };
            return Ok(Some(Located::External(external)));
        }
        rejected.push(format!("{variable} is {} {}", answer.flavor, answer.version));
    }
    let (variable, path) = match flavor {
        Flavor::MySql => ("CONCORD_MYSQLD", &env.mysqld),
        Flavor::MariaDb => ("CONCORD_MARIADBD", &env.mariadbd),
    };
    let Some(path) = path else { return Ok(None) };
    usable(path, flavor, Source::Explicit)
        .map(|found| Some(Located::Installed(found)))
        .map_err(|reason| Error::BadSetting { variable, value: path.display().to_string(), reason })
}

/// A system's policy (AppArmor on Ubuntu) may forbid an installed server every data directory but its own, so a
/// program counts only when it has made one for us.
fn installed_and_working(
    env: &Environment,
    flavor: Flavor,
    rejected: &mut Vec<String>,
) -> Option<Installation> {
    for candidate in installed(env, flavor, rejected) {
        match template::ensure(env, &candidate) {
            Ok(_) => return Some(candidate),
            Err(e) => rejected.push(e.to_string()),
        }
    }
    None
}

fn installed(env: &Environment, flavor: Flavor, rejected: &mut Vec<String>) -> Vec<Installation> {
    let names = match flavor {
        Flavor::MySql => ["mysqld"].as_slice(),
        Flavor::MariaDb => ["mariadbd", "mysqld"].as_slice(),
    };
    let mut found: Vec<Installation> = Vec::new();
    let paths = names.iter().flat_map(|name| env.program_dirs.iter().map(move |dir| dir.join(name)));
    let mut seen = Vec::new();
    for path in paths.filter(|path| path.is_file()) {
        // `mysqld` is often a link to `mariadbd`, and one directory may be on PATH under two names.
        let canonical = path.canonicalize().unwrap_or_else(|_| path.clone());
        if seen.contains(&canonical) {
            continue;
        }
        seen.push(canonical);
        match usable(&path, flavor, Source::System) {
            Ok(installation) => found.push(installation),
            Err(reason) => rejected.push(format!("{}: {reason}", path.display())),
        }
    }
    if found.is_empty() && rejected.is_empty() {
        rejected.push(format!("no {} on PATH or in the usual directories", names.join(" or ")));
    }
    found
}

fn usable(path: &Path, flavor: Flavor, source: Source) -> Result<Installation, String> {
    suitable(Installation::installed(path, source)?, flavor)
}

fn suitable(installation: Installation, flavor: Flavor) -> Result<Installation, String> {
    if installation.flavor != flavor {
        return Err(format!("it is {} {}", installation.flavor, installation.version));
    }
    require_supported(flavor, installation.version)?;
    Ok(installation)
}

fn require_supported(flavor: Flavor, version: Version) -> Result<(), String> {
    let oldest = flavor.oldest_supported();
    if version < oldest {
        return Err(format!("{flavor} {version} is too old: {oldest} or newer is needed"));
    }
    Ok(())
}

/// The program in an unpacked root directory, if it is one that will do.
fn unpacked(root: &Path, flavor: Flavor, source: Source) -> Result<Installation, String> {
    suitable(Installation::unpacked(root, flavor, source)?, flavor)
}
