//! Running an unpacked program with the libraries that were unpacked with it.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// How deep below an unpacked root libraries are looked for: `usr/lib/mysql/private` is three.
const DEPTH_MAX: u32 = 4;

/// The libraries and the dynamic loader of an unpacked root directory, so that a program built for a newer
/// distribution runs on an older one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Libraries {
    pub(crate) loader: PathBuf,
    dirs: Vec<PathBuf>,
}

impl Libraries {
    /// Looks for them. The error says in a few words what is missing.
    pub(crate) fn below(root: &Path) -> Result<Libraries, String> {
        let mut found = Search::default();
        for dir in ["lib", "lib64", "usr/lib", "usr/lib64"] {
            found.search(&root.join(dir), 0);
        }
        let loader = found.loader.ok_or("there is no dynamic loader in the packages")?;
        Ok(Libraries { loader, dirs: found.dirs })
    }

    /// The directories as the loader's `--library-path` takes them.
    pub(crate) fn path(&self) -> OsString {
        // They come from a directory walk and hold no colon unless the cache's path does.
        let mut path = OsString::new();
        for (n, dir) in self.dirs.iter().enumerate() {
            if n > 0 {
                path.push(":");
            }
            path.push(dir);
        }
        path
    }
}

/// The program, through the unpacked loader if there is one.
pub(crate) fn command(libraries: Option<&Libraries>, program: &Path) -> Command {
    let mut command = match libraries {
        Some(libraries) => {
            let mut command = Command::new(&libraries.loader);
            command.arg("--library-path").arg(libraries.path()).arg(program);
            // The host's configuration is for another OpenSSL.
            command.env("OPENSSL_CONF", "/dev/null");
            command
        }
        None => Command::new(program),
    };
    command.env_remove("LD_PRELOAD").env_remove("LD_LIBRARY_PATH");
    command
}

#[derive(Default)]
struct Search {
    dirs: Vec<PathBuf>,
    loader: Option<PathBuf>,
}

impl Search {
    /// Collects directories with shared libraries (not plugins) and the loader itself, which is a regular file:
    /// the link in `lib64` is absolute and would lead out of the root.
    fn search(&mut self, dir: &Path, depth: u32) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        let mut has_library = false;
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && depth < DEPTH_MAX && name != "plugin" {
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
