//! The data directory of an embedded store: whose it is, what it lies on, how much room there is, how long a sync takes.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use concord_coordinator::store::{Archive, Place, StoreError};

use super::Finding;
use crate::cli::view::size;

const SUBJECT: &str = "data directory";
/// Less room than this is a failure, in bytes.
const ROOM_MIN: u64 = 64 << 20;
/// Less than this is a warning, in bytes.
const ROOM_FAIR: u64 = 1 << 30;
/// Syncs that are timed.
const SYNCS: usize = 20;
/// Each of them follows so many bytes: a commit of a few transactions.
const SYNC_BYTES: usize = 4096;
/// Decisions of a coordinator whose disk is slower than this are slow.
const SYNC_SLOW: Duration = Duration::from_millis(20);
/// Faster than any disk.
const SYNC_UNLIKELY: Duration = Duration::from_micros(5);

/// Looks at a data directory, or where it is to be.
pub(super) fn examine(data_dir: &Path) -> Vec<Finding> {
    let shown = data_dir.display();
    let place = match std::fs::metadata(data_dir) {
        Ok(found) if found.is_dir() => data_dir.to_path_buf(),
        Ok(_) => {
            let found = format!("{shown} is not a directory");
            return vec![Finding::failure("directory", SUBJECT, found, "name another one: store.data_dir")];
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => match nearest(data_dir) {
            Some(place) => place,
            None => return vec![unusable(data_dir, &error)],
        },
        Err(error) => return vec![unusable(data_dir, &error)],
    };
    let mut findings = Vec::new();
    if place == data_dir {
        findings.push(owner(data_dir));
        findings.push(store(data_dir));
    } else {
        let found = format!("{shown} is not there yet; `concord serve` makes it in {}", place.display());
        findings.push(Finding::ok("directory", SUBJECT, found));
    }
    findings.push(file_system(&place));
    findings.push(room(&place));
    findings.push(sync(&place));
    findings
}

/// The directory in which a directory would be made.
fn nearest(path: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    absolute.ancestors().find(|ancestor| ancestor.is_dir()).map(Path::to_path_buf)
}

fn unusable(path: &Path, error: &io::Error) -> Finding {
    let mend = "see that the user who runs the coordinator may enter it, or name another one: store.data_dir";
    Finding::failure("directory", SUBJECT, format!("{}: {error}", path.display()), mend)
}

/// Whose it is, and who else may read it.
fn owner(path: &Path) -> Finding {
    let (shown, own) = (path.display(), rustix::process::geteuid().as_raw());
    let (uid, mode) = match std::fs::metadata(path) {
        Ok(found) => (found.uid(), found.permissions().mode() & 0o777),
        Err(error) => return unusable(path, &error),
    };
    if uid != own {
        let found = format!("{shown} belongs to user {uid}, and this is user {own}");
        let mend = "run the doctor as the user who runs the coordinator, who should own it";
        return Finding::warning("directory", SUBJECT, found, mend);
    }
    if mode & 0o077 != 0 {
        let found = format!(
            "{shown} can be entered by other users (mode {mode:03o}); payloads of TCC branches are in it"
        );
        return Finding::warning("directory", SUBJECT, found, format!("chmod 700 {shown}"));
    }
    Finding::ok("directory", SUBJECT, format!("{shown} belongs to this user, and to nobody else"))
}

/// The store in it, if there is one that nobody has open.
fn store(path: &Path) -> Finding {
    // What is acknowledged must be somewhere.
    if !["concord.db", "concord.acknowledged"].iter().any(|name| path.join(name).exists()) {
        return Finding::ok("store", SUBJECT, "no store in it yet");
    }
    let opened = Archive::open_alone(&Place::Directory(path.to_path_buf()));
    let facts = opened.and_then(|mut archive| archive.check_whole().and_then(|()| archive.facts()));
    match facts {
        Ok(facts) => {
            let found = format!(
                "a store in epoch {}, with {} live and {} ended transactions, {}",
                facts.epoch,
                facts.live,
                facts.ended,
                size(facts.bytes)
            );
            match facts.live {
                0 => Finding::ok("store", SUBJECT, found),
                _ => Finding::warning(
                    "store",
                    SUBJECT,
                    format!("{found}; no coordinator has it open"),
                    "start the coordinator: until then nothing of what is live ends, and branches in doubt keep their locks. \
                     `concord store check` looks at all of it",
                ),
            }
        }
        Err(StoreError::InUse { pid, .. }) => {
            let by = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
            Finding::ok("store", SUBJECT, format!("a coordinator has its store open{by}"))
        }
        Err(StoreError::OlderSchema { found: 0, .. }) => {
            Finding::ok("store", SUBJECT, "an empty store, which has never been used")
        }
        Err(error @ StoreError::OlderSchema { .. }) => Finding::warning(
            "store",
            SUBJECT,
            error.to_string(),
            "back it up first: then nothing is lost by it",
        ),
        Err(error) => Finding::failure(
            "store",
            SUBJECT,
            error.to_string(),
            "do as it says; until then `concord serve` refuses the store, too. `concord store check` may say more",
        ),
    }
}

/// What a file system is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Disk,
    /// Gone with the power.
    Memory,
    /// Its locks and its shared memory do not hold between machines.
    Network,
    /// What it promises is up to something else.
    Layer,
}

/// By what `statfs` of Linux calls them (linux/magic.h, and the projects' own headers).
const KNOWN: [(u32, &str, Kind); 20] = [
    (0x0000_ef53, "ext", Kind::Disk),
    (0x5846_5342, "XFS", Kind::Disk),
    (0x9123_683e, "Btrfs", Kind::Disk),
    (0x2fc1_2fc1, "ZFS", Kind::Disk),
    (0xf2f5_2010, "F2FS", Kind::Disk),
    (0x0102_1994, "tmpfs", Kind::Memory),
    (0x8584_58f6, "ramfs", Kind::Memory),
    (0x0000_6969, "NFS", Kind::Network),
    (0x0000_517b, "SMB", Kind::Network),
    (0xff53_4d42, "CIFS", Kind::Network),
    (0xfe53_4d42, "SMB", Kind::Network),
    (0x00c3_6400, "Ceph", Kind::Network),
    (0x5346_414f, "AFS", Kind::Network),
    (0x1983_0326, "BeeGFS", Kind::Network),
    (0x0bd0_0bd0, "Lustre", Kind::Network),
    (0x0116_1970, "GFS2", Kind::Network),
    (0x7461_636f, "OCFS2", Kind::Network),
    (0x794c_7630, "overlayfs", Kind::Layer),
    (0x6573_5546, "FUSE", Kind::Layer),
    (0x0102_1997, "9p", Kind::Layer),
];

#[cfg(target_os = "linux")]
fn file_system(path: &Path) -> Finding {
    match rustix::fs::statfs(path) {
        // Its type differs between machines; the number has 32 bits.
        Ok(found) => judge(found.f_type as u64 & 0xffff_ffff),
        Err(error) => unusable(path, &error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn file_system(_: &Path) -> Finding {
    Finding::ok(
        "file system",
        SUBJECT,
        "not looked at on this system; it must be one of this machine's own disks",
    )
}

/// By its number.
fn judge(number: u64) -> Finding {
    let known = KNOWN.iter().find(|(known, ..)| u64::from(*known) == number);
    match known {
        Some((_, name, Kind::Disk)) => Finding::ok("file system", SUBJECT, format!("it is on {name}")),
        Some((_, name, Kind::Memory)) => Finding::failure(
            "file system",
            SUBJECT,
            format!("it is on {name}: all is lost when the machine restarts"),
            "put it on a disk",
        ),
        Some((_, name, Kind::Network)) => Finding::failure(
            "file system",
            SUBJECT,
            format!(
                "it is on {name}: neither the lock nor the log is safe on a file system that machines share"
            ),
            "put it on a disk of this machine, or share a store in a database (docs/cluster.md)",
        ),
        Some((_, name, Kind::Layer)) => Finding::warning(
            "file system",
            SUBJECT,
            format!(
                "it is on {name}: what it keeps, and whether a sync reaches a disk, is up to what lies beneath"
            ),
            "mount a disk there; what a container writes to its own layers is gone with it",
        ),
        None => Finding::ok(
            "file system",
            SUBJECT,
            format!("its kind (0x{number:x}) is not known here; it must be a local disk"),
        ),
    }
}

fn room(path: &Path) -> Finding {
    let found = match rustix::fs::statvfs(path) {
        Ok(found) => found,
        Err(error) => return unusable(path, &error.into()),
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let said = format!("{} free", size(free));
    let mend = "make room, or keep less history: store.retention_ms. On a full disk the coordinator stops";
    match free {
        ..ROOM_MIN => Finding::failure("room", SUBJECT, said, mend),
        ROOM_MIN..ROOM_FAIR => Finding::warning("room", SUBJECT, said, mend),
        ROOM_FAIR.. => Finding::ok("room", SUBJECT, said),
    }
}

/// How long a sync takes: each decision waits for one, alone or with others.
fn sync(path: &Path) -> Finding {
    match time_syncs(path) {
        Err(error) => {
            let found = format!("a file in {} cannot be written and synced: {error}", path.display());
            let mend =
                "see that the user who runs the coordinator may write there, and that the disk is well";
            Finding::failure("sync", SUBJECT, found, mend)
        }
        Ok(mut took) => {
            took.sort_unstable();
            let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
            judge_sync(median, longest)
        }
    }
}

fn judge_sync(median: Duration, longest: Duration) -> Finding {
    let found = format!("a sync takes {median:.1?}, the longest of {SYNCS} took {longest:.1?}");
    if median >= SYNC_SLOW {
        return Finding::warning("sync", SUBJECT, found, "every decision waits for one: use a faster disk");
    }
    if median < SYNC_UNLIKELY {
        let mend = "no disk is so fast: see that syncs are not switched off, by a mount option or by the virtual machine's cache";
        return Finding::warning("sync", SUBJECT, found, mend);
    }
    Finding::ok("sync", SUBJECT, found)
}

/// Writes and syncs a small file, again and again.
fn time_syncs(directory: &Path) -> io::Result<Vec<Duration>> {
    let scratch = Scratch::create(directory)?;
    let mut file = &scratch.file;
    let block = [0x5a; SYNC_BYTES];
    let mut took = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(&block)?;
        let start = Instant::now();
        file.sync_data()?;
        took.push(start.elapsed());
    }
    Ok(took)
}

/// A file that is removed when this is dropped.
struct Scratch {
    file: File,
    path: PathBuf,
}

impl Scratch {
    fn create(directory: &Path) -> io::Result<Self> {
        let path = directory.join(format!(".concord-doctor-{}", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let scratch = Scratch { file, path };
        scratch.file.set_permissions(Permissions::from_mode(0o600))?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left of it does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use concord_coordinator::store::{Durability, Entry, SqliteStore, Store as _, UnixMillis};
    use concord_proto::store::record::Kind;
    use concord_proto::store::{Begun, Record};
    use concord_protocol::{Epoch, Gtid};

    use super::*;
    use crate::cli::view::Level;

    fn levels(findings: &[Finding]) -> Vec<(&str, Level)> {
        findings.iter().map(|finding| (finding.check, finding.level)).collect()
    }

    fn of<'f>(findings: &'f [Finding], check: &str) -> &'f Finding {
        findings.iter().find(|finding| finding.check == check).expect("it was checked")
    }

    #[test]
    fn a_directory_is_looked_at_and_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path().join("data");
        let missing = examine(&data_dir);
        assert!(of(&missing, "directory").found.contains("not there yet"), "{missing:?}");
        assert!(!data_dir.exists());
        std::fs::create_dir(&data_dir).unwrap();
        for (mode, level) in [(0o700, Level::Ok), (0o755, Level::Warning)] {
            std::fs::set_permissions(&data_dir, Permissions::from_mode(mode)).unwrap();
            let findings = examine(&data_dir);
            assert_eq!(of(&findings, "directory").level, level, "{mode:o}");
            assert_ne!(of(&findings, "sync").level, Level::Failure);
            let checks: Vec<_> = levels(&findings).into_iter().map(|(check, _)| check).collect();
            assert_eq!(checks, ["directory", "store", "file system", "room", "sync"]);
        }
        assert_eq!(std::fs::read_dir(&data_dir).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_directory_fails() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below")] {
            assert_eq!(levels(&examine(&path)), [("directory", Level::Failure)], "{}", path.display());
        }
    }

    #[test]
    fn file_systems_are_told_apart() {
        for (number, level) in [
            (0xef53, Level::Ok),
            (0x6969, Level::Failure),
            (0xff53_4d42, Level::Failure),
            (0x0102_1994, Level::Failure),
            (0x794c_7630, Level::Warning),
            (0x1234, Level::Ok),
        ] {
            assert_eq!(judge(number).level, level, "{number:x}");
        }
    }

    #[test]
    fn a_sync_may_be_too_slow_or_too_fast() {
        let level = |micros| judge_sync(Duration::from_micros(micros), Duration::from_secs(1)).level;
        assert_eq!([1, 5, 200, 19_999, 20_000].map(level), {
            use Level::{Ok, Warning};
            [Warning, Ok, Ok, Ok, Warning]
        });
    }

    #[test]
    fn what_is_live_without_a_coordinator_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(directory.path()).unwrap();
        assert!(of(&examine(directory.path()), "store").found.contains("a coordinator has its store open"));
        let record = Record { kind: Some(Kind::Begun(Begun::default())) };
        let entry = Entry { gtid: Gtid::compose(1, Epoch(1), 1), at: UnixMillis(1), record };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(store.append(vec![entry], Durability::Forced)).unwrap();
        runtime.block_on(store.close()).unwrap();
        let findings = examine(directory.path());
        let found = of(&findings, "store");
        assert!(found.level == Level::Warning && found.found.contains("with 1 live"), "{found:?}");
        assert!(found.mend.as_ref().unwrap().starts_with("start the coordinator"), "{found:?}");
    }

    #[test]
    fn a_damaged_store_is_found() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("concord.db"), "this is no store, whatever it is called")
            .unwrap();
        let findings = examine(directory.path());
        assert_eq!(of(&findings, "store").level, Level::Failure, "{findings:?}");
    }
}
