//! The cache of unpacked servers: locks, manifests, and moves into place.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Environment, Product, Version,
    error::{IoContext, Result},
    progress::Progress,
};

/// Raised when the layout of a cache entry changes; entries of another format are left alone and not used.
const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const STAMP: &str = "verified.json";

/// What was unpacked, written last, so that an entry without a manifest is not complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    #[serde(rename = "flavor")]
    pub(crate) product: Product,
    pub(crate) version: Version,
    /// The server's package, such as `mysql-server-core`.
    pub(crate) package: String,
    /// File names of all packages, with the SHA-256 of each.
    pub(crate) packages: Vec<(String, String)>,
    /// The server program, relative to the root.
    pub(crate) program: PathBuf,
    pub(crate) program_sha256: String,
    /// Every regular file that was kept, relative to the root, with its length in bytes.
    pub(crate) files: Vec<(PathBuf, u64)>,
}

impl Manifest {
    /// Lists what lies under `root`.
    pub(crate) fn of(
        root: &Path,
        product: Product,
        version: Version,
        package: String,
        packages: Vec<(String, String)>,
        program: &Path,
    ) -> Result<Manifest> {
        let program_sha256 = sha256_of(program)?;
        let program = program.strip_prefix(root).unwrap_or(program).to_path_buf();
        let files = list_files(root)?;
        Ok(Manifest { format: FORMAT, product, version, package, packages, program, program_sha256, files })
    }

    pub(crate) fn write(&self, entry: &Path) -> Result<()> {
        write_json(&entry.join(MANIFEST), self)
    }

    fn read(entry: &Path) -> Option<Manifest> {
        let manifest: Manifest = serde_json::from_slice(&fs::read(entry.join(MANIFEST)).ok()?).ok()?;
        (manifest.format == FORMAT).then_some(manifest)
    }

    /// The lengths of all files are compared each time; the program is hashed again only if the file changed
    /// since the last time it was (inode, length, times), because hashing takes longer than starting a server.
    fn verify(&self, entry: &Path) -> Result<(), String> {
        let root = entry.join("root");
        for (path, size) in &self.files {
            match fs::symlink_metadata(root.join(path)) {
                Ok(found) if found.len() == *size => {}
                Ok(found) => {
                    return Err(format!("{} has {} bytes instead of {size}", path.display(), found.len()));
                }
                Err(e) => return Err(format!("{}: {e}", path.display())),
            }
        }
        let program = root.join(&self.program);
        let stamp = Stamp::of(&program).map_err(|e| e.to_string())?;
        let stamp_path = entry.join(STAMP);
        let known: Option<Stamp> =
            fs::read(&stamp_path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if known.as_ref() == Some(&stamp) {
            return Ok(());
        }
        let found = sha256_of(&program).map_err(|e| e.to_string())?;
        if found != self.program_sha256 {
            return Err(format!("{} has the SHA-256 {found}, not the one unpacked", self.program.display()));
        }
        // Only a saving of time for the next one: a read-only cache is fine.
        write_json(&stamp_path, &stamp).ok();
        Ok(())
    }
}

/// What changes when a file is written to or replaced.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Stamp> {
        let meta = fs::metadata(path)?;
        Ok(Stamp {
            inode: meta.ino(),
            len: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

fn servers_dir(env: &Environment) -> PathBuf {
    env.cache_dir.join("servers")
}

/// The entry's directory for a package file such as `mysql-server-core_9.7.4-2_amd64.deb`.
pub(crate) fn entry_dir(env: &Environment, product: Product, package_file: &str) -> PathBuf {
    let name: String = package_file
        .trim_end_matches(".deb")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || ".+~-_".contains(c) { c } else { '-' })
        .collect();
    servers_dir(env).join(format!("{}-{name}", product.id()))
}

/// The newest intact server of this product, with its root directory. Entries that are damaged are reported in
/// `rejected` and left for [`discard_damaged`].
pub(crate) fn find(env: &Environment, product: Product, rejected: &mut Vec<String>) -> Option<PathBuf> {
    let mut entries = manifests(env, product);
    entries.sort_by_key(|(_, manifest)| manifest.version);
    while let Some((entry, manifest)) = entries.pop() {
        match manifest.verify(&entry) {
            Ok(()) => return Some(entry.join("root")),
            Err(reason) => rejected.push(format!("the cache at {} is damaged: {reason}", entry.display())),
        }
    }
    None
}

/// Removes damaged entries; call with the product's lock held.
pub(crate) fn discard_damaged(env: &Environment, product: Product) {
    for (entry, manifest) in manifests(env, product) {
        if let Err(reason) = manifest.verify(&entry) {
            tracing::warn!(entry = %entry.display(), reason, "discarding a damaged server in the cache");
            fs::remove_dir_all(&entry).ok();
        }
    }
}

fn manifests(env: &Environment, product: Product) -> Vec<(PathBuf, Manifest)> {
    let entries = fs::read_dir(servers_dir(env)).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.path(), Manifest::read(&entry.path())?)))
        .filter(|(_, manifest)| manifest.product == product)
        .collect()
}

/// Moves a finished directory to its place in one step. Call with the lock of that place held.
pub(crate) fn move_into_place(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).context(|| format!("create {}", parent.display()))?;
    }
    if to.exists() {
        fs::remove_dir_all(to).context(|| format!("remove {}", to.display()))?;
    }
    fs::rename(from, to).context(|| format!("rename {} to {}", from.display(), to.display()))
}

/// A lock between processes, and between threads of one. The kernel releases it when its holder dies.
pub(crate) fn lock(env: &Environment, name: &str, waiting_for: &str) -> Result<File> {
    let dir = env.cache_dir.join("locks");
    fs::create_dir_all(&dir).context(|| format!("create {}", dir.display()))?;
    let path = dir.join(name);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .context(|| format!("open {}", path.display()))?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        let _progress = Progress::new(format!("waiting for another process that {waiting_for}"));
        file.lock().context(|| format!("lock {}", path.display()))?;
    }
    Ok(file)
}

/// Lower-case hexadecimal SHA-256 of a file.
pub(crate) fn sha256_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).context(|| format!("open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = io::Read::read(&mut file, &mut buffer).context(|| format!("read {}", path.display()))?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
    }
    Ok(hex(&hash.finalize()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Regular files under `root`, relative to it, in order, with their lengths. Links are neither listed nor
/// followed.
pub(crate) fn list_files(root: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    let mut dirs = vec![root.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(&dir).context(|| format!("list {}", dir.display()))?;
        for entry in entries {
            let entry = entry.context(|| format!("list {}", dir.display()))?;
            let path = entry.path();
            let meta = fs::symlink_metadata(&path).context(|| format!("stat {}", path.display()))?;
            if meta.is_dir() {
                dirs.push(path);
            } else if meta.is_file() {
                files.push((path.strip_prefix(root).unwrap_or(&path).to_path_buf(), meta.len()));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Written aside and renamed, so that a reader sees all of it or none.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(io::Error::other)
        .context(|| format!("encode {}", path.display()))?;
    let aside = path.with_extension(format!("tmp{}", std::process::id()));
    fs::write(&aside, text).context(|| format!("write {}", aside.display()))?;
    fs::rename(&aside, path).context(|| format!("rename {}", aside.display()))
}
