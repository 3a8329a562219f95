//! A server program on disk and how to run it.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};

use crate::{Flavor, Version};

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
    /// Directories of the unpacked libraries.
    #[serde(skip)]
    library_dirs: Vec<PathBuf>,
    /// The directory with error messages, character sets and MariaDB's bootstrap SQL.
    #[serde(skip)]
    pub(crate) share_dir: Option<PathBuf>,
    #[serde(skip)]
    plugin_dir: Option<PathBuf>,
}

/// How deep below an unpacked root libraries are looked for: `usr/lib/mysql/private` is three.
const LIBRARY_DEPTH_MAX: u32 = 4;

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
            library_dirs: Vec::new(),
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
        let mut found = Libraries::default();
        for dir in ["lib", "lib64", "usr/lib", "usr/lib64"] {
            found.search(&root.join(dir), 0);
        }
        let unknown = Installation {
            flavor,
            version: Version { major: 0, minor: 0, patch: 0 },
            source,
            program,
            loader: Some(found.loader.ok_or("there is no dynamic loader in the packages")?),
            library_dirs: found.dirs,
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
        let mut command = match &self.loader {
            Some(loader) => {
                let mut command = Command::new(loader);
                // The dirs come from a directory walk and hold no colon unless the cache's path does.
                let mut libraries = OsString::new();
                for (n, dir) in self.library_dirs.iter().enumerate() {
                    if n > 0 {
                        libraries.push(":");
                    }
                    libraries.push(dir);
                }
                command.arg("--library-path").arg(libraries).arg(&self.program);
                // The host's configuration is for another OpenSSL.
                command.env("OPENSSL_CONF", "/dev/null");
                command
            }
            None => Command::new(&self.program),
        };
        command.env_remove("LD_PRELOAD").env_remove("LD_LIBRARY_PATH").arg("--no-defaults");
        command
    }
}

pub(crate) fn with_path(option: &str, path: &Path) -> OsString {
    let mut text = OsString::from(option);
    text.push(path);
    text
}

fn share_dirs(base: &Path) -> [PathBuf; 3] {
    [base.join("share/mysql"), base.join("share/mariadb"), base.join("share")]
}

#[derive(Default)]
struct Libraries {
    dirs: Vec<PathBuf>,
    loader: Option<PathBuf>,
}

impl Libraries {
    /// Collects directories with shared libraries (not plugins) and the loader itself, which is a regular file:
    /// the link in `lib64` is absolute and would lead out of the root.
    fn search(&mut self, dir: &Path, depth: u32) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        let mut has_library = false;
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && depth < LIBRARY_DEPTH_MAX && name != "plugin" {
                self.search(&path, depth + 1);
            } else if name.contains(".so.") || name.ends_with(".so") {
                has_library = true;
                if kind.is_file() && name.starts_with("ld-linux") {
                    self.loader = Some(path);
                }
            }
        }
        if has_library {
            self.dirs.push(dir.to_path_buf());
        }
    }
}
