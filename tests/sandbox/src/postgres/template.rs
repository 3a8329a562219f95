//! PostgreSQL's initialised data directory, made once per version and copied for each server.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use super::{account, installation::PostgresInstallation};
use crate::{
    Environment, Error, Product,
    error::{IoContext, Result},
    installation::with_path,
    template,
};

/// The superuser, as everywhere, without a password: the server listens on the loopback interface only.
pub(super) const USER: &str = "postgres";

const OPTIONS: [&str; 4] = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"];

/// Stands where `initdb` expects `postgres`, because that one runs only through the unpacked loader.
const THROUGH_LOADER: &str = "#!/bin/sh\n\
    exec \"$CONCORD_LOADER\" --library-path \"$CONCORD_LIBRARIES\" \"$CONCORD_PROGRAM\" \"$@\"\n";

/// The template for this installation, made now if need be.
pub(super) fn ensure(env: &Environment, installation: &PostgresInstallation) -> Result<PathBuf> {
    let made_with = OPTIONS.map(str::to_string);
    let key = template::key(Product::Postgres, installation, &made_with)?;
    template::ensure_made(env, &key, &installation.name(), |work, data| initialise(installation, work, data))
}

/// Copies a template's data directory.
pub(super) fn copy(template: &Path, to: &Path) -> Result<()> {
    template::copy(template, to)?;
    account::hand_over(to)
}

fn initialise(installation: &PostgresInstallation, work: &Path, data: &Path) -> Result<()> {
    let mut command = match &installation.libraries {
        None => installation.command("initdb"),
        Some(libraries) => {
            let mut command = installation.command_at(&stage(installation, work)?);
            command.env("CONCORD_LOADER", &libraries.loader);
            command.env("CONCORD_LIBRARIES", libraries.path());
            command.env("CONCORD_PROGRAM", &installation.program);
            command.arg("-L").arg(share_dir(installation)?);
            command
        }
    };
    // It fills an empty directory, too, which is its own.
    fs::create_dir(data).context(|| format!("create {}", data.display()))?;
    account::hand_over(data)?;
    command.args(OPTIONS).arg(format!("--username={USER}")).arg(with_path("--pgdata=", data));
    let mut command = account::unprivileged(command)?;
    command.stdin(Stdio::null());
    template::run(command, &installation.sibling("initdb"), work, |_| Ok(())).map_err(|error| match error {
        Error::Initialise { program, reason, log_tail } => {
            let reason = format!("{reason}{}", account::hint(&log_tail));
            Error::Initialise { program, reason, log_tail }
        }
        other => other,
    })
}

/// A copy of `initdb` with a `postgres` beside it that goes through the loader.
fn stage(installation: &PostgresInstallation, work: &Path) -> Result<PathBuf> {
    let dir = work.join("bin");
    let (initdb, postgres) = (dir.join("initdb"), dir.join("postgres"));
    fs::create_dir(&dir)
        .and_then(|()| fs::copy(installation.sibling("initdb"), &initdb))
        .and_then(|_| fs::write(&postgres, THROUGH_LOADER))
        .and_then(|()| fs::set_permissions(&postgres, fs::Permissions::from_mode(0o755)))
        .context(|| format!("write to {}", dir.display()))?;
    Ok(initdb)
}

/// Where the unpacked `initdb` has its input: `usr/share/postgresql/15` for `usr/lib/postgresql/15/bin/initdb`.
fn share_dir(installation: &PostgresInstallation) -> Result<PathBuf> {
    let program = &installation.program;
    let dir = program
        .ancestors()
        .nth(2)
        .zip(program.ancestors().nth(5))
        .and_then(|(version, usr)| Some(usr.join("share/postgresql").join(version.file_name()?)));
    dir.filter(|dir| dir.is_dir()).ok_or_else(|| Error::Initialise {
        program: installation.sibling("initdb"),
        reason: "its share directory was not found".into(),
        log_tail: "(it was not run)".into(),
    })
}
