//! Initialised data directories, made once per server version and copied for each server.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Environment, Error, Flavor, Installation, Product,
    cache::{self, hex, list_files, move_into_place, write_json},
    error::{IoContext, Result},
    installation::with_path,
    launch,
    obtain::Program,
    progress::Progress,
};

/// Part of the key: raise it when the way of making a template changes.
const FORMAT: u32 = 1;
const LISTING: &str = "template.json";
const LOG: &str = "init.log";

/// The root account must be allowed in from 127.0.0.1 by that very address, because servers run with
/// `skip_name_resolve`.
const MYSQL_ACCOUNTS: &str = "\
CREATE USER 'root'@'127.0.0.1' IDENTIFIED BY '';
GRANT ALL PRIVILEGES ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;
";

/// What `mariadb-install-db` feeds to the server, in its order; the names of the two newer generations.
/// (file, older name, required)
const MARIADB_SQL: [(&str, &str, bool); 5] = [
    ("mariadb_system_tables.sql", "mysql_system_tables.sql", true),
    ("mariadb_performance_tables.sql", "mysql_performance_tables.sql", true),
    ("mariadb_system_tables_data.sql", "mysql_system_tables_data.sql", true),
    ("maria_add_gis_sp_bootstrap.sql", "maria_add_gis_sp_bootstrap.sql", false),
    ("mariadb_sys_schema.sql", "mysql_sys_schema.sql", false),
];

/// Files of a template with their lengths: a machine that lost power in the middle may have kept the names and
/// lost the contents.
#[derive(Serialize, Deserialize)]
struct Listing {
    files: Vec<(PathBuf, u64)>,
}

/// The template for this server program, made now if need be.
pub(crate) fn ensure(env: &Environment, installation: &Installation) -> Result<PathBuf> {
    let Installation { flavor, version, .. } = installation;
    let made_with = [launch::redo_log(installation), MYSQL_ACCOUNTS.to_string()];
    let key = key(Product::from(*flavor), installation, &made_with)?;
    ensure_made(env, &key, &format!("{flavor} {version}"), |work, data| {
        match flavor {
            Flavor::MySql => initialise_mysql(installation, work, data)?,
            Flavor::MariaDb => initialise_mariadb(installation, work, data)?,
        }
        // The server's identity: each copy makes its own.
        for name in ["auto.cnf", "ib_buffer_pool"] {
            fs::remove_file(data.join(name)).ok();
        }
        Ok(())
    })
}

/// The template with this key. If there is none, `make` makes its data directory, with a directory to work in.
pub(crate) fn ensure_made(
    env: &Environment,
    key: &str,
    name: &str,
    make: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let place = env.cache_dir.join("templates").join(key);
    if is_intact(&place) {
        return Ok(place);
    }
    let _lock = cache::lock(env, key, &format!("prepares {name}"))?;
    if is_intact(&place) {
        return Ok(place);
    }
    let _progress = Progress::new(format!("preparing a data directory for {name}"));
    let work = tempfile::Builder::new()
        .prefix("template-")
        .tempdir_in(&env.cache_dir)
        .context(|| format!("create a directory in {}", env.cache_dir.display()))?;
    let template = work.path().join("template");
    fs::create_dir(&template).context(|| format!("create {}", template.display()))?;
    let data = template.join("data");
    make(work.path(), &data)?;
    write_json(&template.join(LISTING), &Listing { files: list_files(&data)? })?;
    move_into_place(&template, &place)?;
    Ok(place)
}

/// Copies a template's data directory.
pub(crate) fn copy(template: &Path, to: &Path) -> Result<()> {
    copy_dir(&template.join("data"), to)
        .context(|| format!("copy {} to {}", template.display(), to.display()))
}

fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Unique per product, version, program file, and the way in which we make templates.
pub(crate) fn key(product: Product, program: &impl Program, made_with: &[String]) -> Result<String> {
    let (path, version) = (program.path(), program.version());
    let size = fs::metadata(path).context(|| format!("stat {}", path.display()))?.len();
    let mut hash = Sha256::new();
    let own = [FORMAT.to_string(), path.display().to_string(), size.to_string()];
    for part in own.iter().chain(made_with) {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let hash = hex(&hash.finalize());
    Ok(format!("{}-{}-{}", product.id(), product.release(version), &hash[..12]))
}

fn is_intact(place: &Path) -> bool {
    let listing = fs::read(place.join(LISTING)).ok();
    let Some(listing) = listing.and_then(|text| serde_json::from_slice::<Listing>(&text).ok()) else {
        return false;
    };
    let data = place.join("data");
    let same = |(path, size): &(PathBuf, u64)| {
        fs::symlink_metadata(data.join(path)).is_ok_and(|meta| meta.len() == *size)
    };
    listing.files.iter().all(same)
}

fn initialise_mysql(installation: &Installation, work: &Path, data: &Path) -> Result<()> {
    let accounts = work.join("accounts.sql");
    fs::write(&accounts, MYSQL_ACCOUNTS).context(|| format!("write {}", accounts.display()))?;
    let mut command = installation.command();
    command
        .args(["--initialize-insecure", "--skip-log-bin", "--innodb-use-native-aio=OFF"])
        .arg(launch::redo_log(installation))
        .arg(with_path("--init-file=", &accounts))
        .arg(with_path("--datadir=", data))
        .stdin(Stdio::null());
    run(command, &installation.program, work, |_| Ok(()))
}

/// The same SQL as `mariadb-install-db`, without the script: it starts the program by itself, and so cannot go
/// through our loader. It makes root@127.0.0.1 without a password.
fn initialise_mariadb(installation: &Installation, work: &Path, data: &Path) -> Result<()> {
    let missing = |reason: String| Error::Initialise {
        program: installation.program.clone(),
        reason,
        log_tail: "(it was not run)".into(),
    };
    let share = installation.share_dir.as_ref();
    let share = share.ok_or_else(|| missing("its share directory was not found".into()))?;
    let mut sql = String::from("CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n");
    for (name, older, required) in MARIADB_SQL {
        let text = [name, older].iter().find_map(|name| fs::read_to_string(share.join(name)).ok());
        match text {
            Some(text) => sql += &text,
            None if required => return Err(missing(format!("there is no {name} in {}", share.display()))),
            None => {}
        }
        sql.push('\n');
    }
    fs::create_dir(data).context(|| format!("create {}", data.display()))?;
    let mut command = installation.command();
    command
        .args(["--bootstrap", "--skip-log-bin", "--enforce-storage-engine=", "--max-allowed-packet=8M"])
        .args([
            "--net-buffer-length=16K",
            "--innodb-use-native-aio=OFF",
            "--innodb-buffer-pool-dump-at-shutdown=OFF",
        ])
        .arg(launch::redo_log(installation))
        .arg(with_path("--datadir=", data))
        .stdin(Stdio::piped());
    run(command, &installation.program, work, |stdin| stdin.write_all(sql.as_bytes()))
}

/// Runs what makes a data directory; on a failure the error has the end of its output.
pub(crate) fn run(
    mut command: Command,
    program: &Path,
    work: &Path,
    feed: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let log = work.join(LOG);
    let (out, err) = launch::log_handles(&log)?;
    let mut child =
        command.stdout(out).stderr(err).spawn().context(|| format!("start {}", program.display()))?;
    let fed = match child.stdin.take() {
        Some(mut stdin) => feed(&mut stdin),
        None => Ok(()),
    };
    let status = child.wait().context(|| format!("wait for {}", program.display()))?;
    let reason = match fed {
        Ok(()) if status.success() => return Ok(()),
        // A broken pipe is what an early end looks like from here; the status says more.
        _ => status.to_string(),
    };
    Err(Error::Initialise { program: program.to_path_buf(), reason, log_tail: launch::log_tail(&log, 0) })
}
