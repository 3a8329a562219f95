//! The data directory: creating it so that it survives a crash, and keeping a second coordinator out.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::store::StoreError;

/// The file whose lock says that the directory is taken. It stays when the lock is released: removing it would
/// let two processes lock two different files of that name.
const LOCK_FILE: &str = "concord.lock";
/// The store's file.
const STORE_FILE: &str = "concord.db";
/// The file that says how many commits were acknowledged: see `seal`.
const WATERMARK_FILE: &str = "concord.acknowledged";

/// A data directory that is ours until this is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    lock: File,
}

impl Directory {
    /// Creates the directory where there is none, and takes it.
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        create(path).map_err(|error| failed(path, "the directory cannot be created", &error))?;
        Self::lock(path)
    }

    /// Takes a directory that has a store, or had one: a watermark without a store is for the caller to find. Nothing is
    /// written but the lock file.
    pub(super) fn take_existing(path: &Path) -> Result<Self, StoreError> {
        if !path.join(WATERMARK_FILE).exists() {
            expect_store(path)?;
        }
        Self::lock(path)
    }

    fn lock(path: &Path) -> Result<Self, StoreError> {
        let failed = |what: &str, error: io::Error| failed(path, what, &error);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK_FILE))
            .map_err(|error| failed("its lock file cannot be opened", error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse { path: path.to_path_buf(), pid: read_pid(&mut lock) });
            }
            Err(TryLockError::Error(error)) => return Err(failed("its lock file cannot be locked", error)),
        }
        write_pid(&mut lock).map_err(|error| failed("its lock file cannot be written", error))?;
        Ok(Directory { path: path.to_path_buf(), lock })
    }

    /// Where the store's file is.
    pub(super) fn store_file(&self) -> PathBuf {
        store_file(&self.path)
    }

    /// Where the watermark is.
    pub(super) fn watermark_file(&self) -> PathBuf {
        self.path.join(WATERMARK_FILE)
    }

    /// Makes the names of the files in the directory durable: a synced file whose name is lost is lost too.
    pub(super) fn sync(&self) -> io::Result<()> {
        sync(&self.path)
    }
}

impl Drop for Directory {
    /// Closing the file would not do: a process that is being started has it too, for a moment.
    fn drop(&mut self) {
        // In vain only if it is not locked.
        let _ = self.lock.unlock();
    }
}

fn failed(path: &Path, what: &str, error: &io::Error) -> StoreError {
    StoreError::Open { path: path.to_path_buf(), reason: format!("{what}: {error}").into() }
}

/// Refuses a directory that has no store.
pub(super) fn expect_store(directory: &Path) -> Result<(), StoreError> {
    let file = store_file(directory);
    match std::fs::metadata(&file) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::Open {
            reason: format!(
                "it does not exist. The data directory that was looked at is {}; --data-dir names another",
                directory.display()
            )
            .into(),
            path: file,
        }),
        Err(error) => Err(failed(&file, "it cannot be looked at", &error)),
    }
}

/// The store's file in a data directory.
pub(super) fn store_file(directory: &Path) -> PathBuf {
    directory.join(STORE_FILE)
}

/// Creates a directory that only its owner may enter, and makes its name durable.
fn create(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let absolute = std::path::absolute(path)?;
    let existing = absolute.ancestors().find(|ancestor| ancestor.is_dir()).map(Path::to_path_buf);
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(&absolute)?;
    for parent in absolute.ancestors().skip(1) {
        sync(parent)?;
        if Some(parent) == existing.as_deref() {
            break;
        }
    }
    Ok(())
}

#[cfg(unix)]
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Elsewhere a directory cannot be opened as a file, and names are as durable as the file system makes them.
#[cfg(not(unix))]
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    std::fs::metadata(directory).map(|_| ())
}

fn read_pid(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    writeln!(lock, "{}", std::process::id())
}

/// The write-ahead log that SQLite keeps beside the store's file.
pub(super) fn wal_file(store_file: &Path) -> PathBuf {
    let mut name = store_file.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

/// The length of a file; 0 when it is not there.
pub(super) fn length(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |metadata| metadata.len())
}
