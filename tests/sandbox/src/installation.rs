//! A server program on disk and how to run it.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};

use crate::{
    Flavor, Version,
    libraries::{self, Libraries},
    obtain::Program,
};

/// Where a server program was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Named by `CONCORD_MYSQLD` or `CONCORD_MARIADBD`.
    Explicit,
    /// Installed on the machine.
    System,
    /// Unpacked earlier into the sandbox's cache.
    Cache,
    /// Unpacked just now into the sandbox's cache.
    Fetched,
}

/// A server program that has been run once to learn its flavour and version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Installation {
    /// Which product it is, by its own word.
    pub flavor: Flavor,
    /// Its version, by its own word.
    pub version: Version,
    /// How it was found.
    pub source: Source,
    /// The server program.
    pub program: PathBuf,
    /// The unpacked dynamic loader that the program is run through; `None` for an installed program, which
    /// suits the system's own libraries.
    pub loader: Option<PathBuf>,
    /// The unpacked libraries, with that loader.
    #[serde(skip)]
    libraries: Option<Libraries>,
    /// The directory with error messages, character sets and MariaDB's bootstrap SQL.
    #[serde(skip)]
    pub(crate) share_dir: Option<PathBuf>,
    #[serde(skip)]
    plugin_dir: Option<PathBuf>,
}

impl Installation {
    /// An installed program. The error says in a few words why it will not do.
    pub(crate) fn installed(program: &Path, source: Source) -> Result<Installation, String> {
        let base = program.canonicalize().ok().and_then(|path| Some(path.parent()?.parent()?.to_path_buf()));
        let share_dir = base.into_iter().flat_map(|base| share_dirs(&base)).find(|dir| dir.is_dir());
        let unknown = Installation {
            flavor: Flavor::MySql,
            version: Version { major: 0, minor: 0, patch: 0 },
            source,
            program: program.to_path_buf(),
            loader: None,
            libraries: None,
            share_dir,
            plugin_dir: None,
        };
        unknown.identified()
    }

    /// A program in an unpacked root directory, run through the root's own loader, so that a server built for a
    /// newer distribution runs on an older one.
    pub(crate) fn unpacked(root: &Path, flavor: Flavor, source: Source) -> Result<Installation, String> {
        let names: &[&str] = match flavor {
            Flavor::MySql => &["usr/sbin/mysqld", "usr/bin/mysqld"],
            Flavor::MariaDb => &["usr/sbin/mariadbd", "usr/sbin/mysqld", "usr/bin/mariadbd"],
        };
        let program = names.iter().map(|name| root.join(name)).find(|path| path.is_file());
        let program = program.ok_or_else(|| format!("there is no {} in the packages", names[0]))?;
        let libraries = Libraries::below(root)?;
        let unknown = Installation {
            flavor,
            version: Version { major: 0, minor: 0, patch: 0 },
            source,
            program,
            loader: Some(libraries.loader.clone()),
            libraries: Some(libraries),
            share_dir: share_dirs(&root.join("usr")).into_iter().find(|dir| dir.is_dir()),
            plugin_dir: ["usr/lib/mysql/plugin", "usr/lib/mariadb/plugin"]
                .into_iter()
                .map(|dir| root.join(dir))
                .find(|dir| dir.is_dir()),
        };
        unknown.identified()
    }

    /// Runs `--version` and takes flavour and version from what it prints.
    fn identified(mut self) -> Result<Installation, String> {
        let output =
            self.bare_command().arg("--version").stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
        let banner = String::from_utf8_lossy(&output.stdout);
        let Some((flavor, version)) = Version::from_banner(&banner) else {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("--version gave {}: {} {}", output.status, banner.trim(), said.trim()));
        };
        (self.flavor, self.version) = (flavor, version);
        Ok(self)
    }

    /// The program with the arguments that every use of it needs, its user and directories.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.bare_command();
        if rustix::process::geteuid().is_root() {
            // Servers refuse to run as root unless told so by name.
            command.arg("--user=root");
        }
        if self.loader.is_some() {
            // The compiled-in directories do not exist on this machine, or belong to another version.
            if let Some(share) = &self.share_dir {
                command.arg(with_path("--lc-messages-dir=", share));
                command.arg(with_path("--character-sets-dir=", &share.join("charsets")));
            }
            if let Some(plugins) = &self.plugin_dir {
                command.arg(with_path("--plugin-dir=", plugins));
            }
            if self.flavor == Flavor::MySql {
                command.arg("--secure-file-priv=NULL");
            }
        }
        command
    }

    fn bare_command(&self) -> Command {
        let mut command = libraries::command(self.libraries.as_ref(), &self.program);
        command.arg("--no-defaults");
        command
    }
}

pub(crate) fn with_path(option: &str, path: &Path) -> OsString {
    let mut text = OsString::from(option);
    text.push(path);
    text
}

impl Program for Installation {
    fn path(&self) -> &Path {
        &self.program
    }

    fn version(&self) -> Version {
        self.version
    }
}

fn share_dirs(base: &Path) -> [PathBuf; 3] {
    [base.join("share/mysql"), base.join("share/mariadb"), base.join("share")]
}
