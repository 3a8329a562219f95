//! PostgreSQL refuses to run as root. In a container or on a build machine root is often the only user, so then it
//! runs as `nobody`.
//!
//! That user keeps one capability, to pass by file permissions, which root had anyway: the cache and the run
//! directory usually lie below directories that only root may enter, and those are not ours to open. What belongs
//! to the server is its data directory, as it insists on that.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{PermissionsExt, lchown},
    path::Path,
    process::Command,
};

use crate::{
    Environment,
    error::{IoContext, Result},
};

/// `nobody` and its group, on Debian, Ubuntu and Fedora alike.
const NOBODY: u32 = 65534;

/// Whether PostgreSQL needs another user than this process's.
fn is_needed() -> bool {
    rustix::process::geteuid().is_root()
}

/// The same command, run by another user if this one is root.
pub(super) fn unprivileged(command: Command) -> Result<Command> {
    if !is_needed() {
        return Ok(command);
    }
    let setpriv = Environment::from_process().program("setpriv");
    let setpriv = setpriv.ok_or_else(no_setpriv).context(|| "start PostgreSQL".into())?;
    let mut wrapped = Command::new(setpriv);
    wrapped
        .arg(format!("--reuid={NOBODY}"))
        .arg(format!("--regid={NOBODY}"))
        .arg("--clear-groups")
        // PostgreSQL asks access(2) about its programs, which looks away from the capability of a user other than
        // root, but for this bit (capabilities(7)).
        .arg("--securebits=+no_setuid_fixup")
        .args(["--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    Ok(wrapped)
}

fn no_setpriv() -> io::Error {
    io::Error::new(
        ErrorKind::NotFound,
        "it does not run as root, and there is no setpriv to run it as another user: \
         install util-linux, or run this as another user than root",
    )
}

/// What to add to an error of a process that did not get as far as becoming PostgreSQL.
pub(super) fn hint(log: &str) -> &'static str {
    if is_needed() && log.contains("setpriv:") {
        " (PostgreSQL does not run as root, and this system does not let root run it as another user with the \
         capability CAP_DAC_OVERRIDE: grant it, or run this as another user than root)"
    } else {
        ""
    }
}

/// Makes a data directory one that the server accepts: its own, and closed to others.
pub(super) fn hand_over(data: &Path) -> Result<()> {
    fs::set_permissions(data, fs::Permissions::from_mode(0o700))
        .context(|| format!("set the permissions of {}", data.display()))?;
    if is_needed() {
        give_away(data).context(|| format!("give {} to the user {NOBODY}", data.display()))?;
    }
    Ok(())
}

fn give_away(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            give_away(&entry?.path())?;
        }
    }
    lchown(path, Some(NOBODY), Some(NOBODY))
}
