//! `concord store`: what a coordinator has on record, read where it lies.
//!
//! Nothing here goes through a coordinator: these commands are for when there is none, and where there is one they cost it
//! nothing but the disk's time.

use std::io::{BufWriter, IsTerminal as _, Write, stdout};
use std::path::{Path, PathBuf};

use clap::{Arg, Args, Subcommand};
use concord_coordinator::config::DatabaseUrl;
use concord_coordinator::inspection::{self, Inspection};
use concord_coordinator::store::{Archive, Place, Span, StoreError, UnixMillis};
use concord_proto::v1;
use indicatif::ProgressBar;

use super::client::output;
use super::configuration::ConfigArgs;
use super::failure::{EXIT_STORE, Failure};
use super::progress;
use super::time;
use super::transaction::State;
use super::view::{BackupReport, StoreReport, TransactionRecord, counted};

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Check that everything on record is there and makes sense; nothing is changed
    #[command(after_help = "\
Of an embedded store the coordinator must be stopped, and none can start meanwhile. It is compared with what was \
acknowledged, and with its seal and its checksums; every transaction's records go through the recovery that a \
coordinator does at its start; every idempotency key must lead somewhere. A shared store is checked beside its \
coordinators.

Examples:
  concord store check                              the store of ./concord.toml
  concord store check /var/lib/concord
  concord store check concord.backup               a backup
  concord store check 'mysql://concord:secret@db.local/concord'

Exit codes: 0 sound, 3 damaged, 1 it could not be checked.")]
    #[command(mut_args(only_of_the_store))]
    Check(CheckArgs),
    /// Copy an embedded store to one file, while its coordinator runs or not
    #[command(after_help = "\
The copy is the store at one moment, checked, and readable by its owner only: payloads are in it. It is for reading, \
with `concord store check` and `concord store export`. No coordinator starts on it: a backup is an older state, which \
has forgotten what was decided since, and a coordinator that went on with it would tell participants to roll back what \
has been committed. docs/operations.md says what to do when a store is lost.

A store in a database is backed up with the database's own tools, and the same is true of such a backup.

Example:
  concord store backup /backup/concord-$(date +%F).backup --data-dir /var/lib/concord")]
    #[command(mut_args(only_of_the_store))]
    Backup(BackupArgs),
    /// Print every transaction, with its history, as lines of JSON, oldest first
    #[command(after_help = "\
Each line is a transaction as `concord tx get --json` shows it, as far as it is on record: what is lazy may be missing of \
a live one. The coordinator may be running.

Examples:
  concord store export > transactions.jsonl
  concord store export --since 2h --state rolled-back
  concord store export --since 2026-11-01T00:00:00Z concord.backup")]
    #[command(mut_args(only_of_the_store))]
    Export(ExportArgs),
}

/// Flags that have nothing to do with a store are understood, as all that sets the configuration, and not listed.
fn only_of_the_store(argument: Arg) -> Arg {
    let is_other = ["listen", "allow", "log_format", "log_filter"].contains(&argument.get_id().as_str());
    argument.hide(is_other)
}

/// Which store.
#[derive(Debug, Clone, Args)]
struct PlaceArgs {
    /// Data directory, backup, or URL of a database [default: the configured store]
    #[arg(value_name = "DIR|FILE|URL")]
    place: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Clone, Args)]
pub(super) struct CheckArgs {
    /// Print JSON with stable field names, instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, Clone, Args)]
pub(super) struct BackupArgs {
    /// The file to make; it must not be there yet
    #[arg(value_name = "TO")]
    to: PathBuf,
    /// Print JSON with stable field names, instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Clone, Args)]
pub(super) struct ExportArgs {
    /// Only those begun since then, e.g. 90m, 2h, 7d ago, or 2026-11-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<UnixMillis>,
    /// Only in this state, or in one of several with commas between; may be repeated. Also: trying, confirming, confirmed,
    /// cancelling, cancelled, as they are called with TCC
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STATE")]
    state: Vec<State>,
    #[command(flatten)]
    place: PlaceArgs,
}

impl ConfigArgs {
    /// The store that is configured.
    fn place(&self) -> Result<Place, Failure> {
        let config = self.load()?.config;
        Ok(match config.store.url {
            Some(url) => Place::Database(url.with_password().to_owned()),
            None => Place::Directory(config.store.data_dir),
        })
    }
}

impl PlaceArgs {
    fn place(&self) -> Result<Place, Failure> {
        match &self.place {
            Some(text) => named(text),
            None => self.config.place(),
        }
    }
}

/// A place, as it is named on the command line.
fn named(text: &str) -> Result<Place, Failure> {
    if text.contains("://") {
        // Errors do not hold the URL, for the sake of its password.
        let url = DatabaseUrl::parse_shared(text)
            .map_err(|error| Failure::usage(format!("the URL of the store: {error}")))?;
        return Ok(Place::Database(url.with_password().to_owned()));
    }
    let path = PathBuf::from(text.strip_prefix("sqlite:").unwrap_or(text));
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(Place::Directory(path)),
        Ok(_) => Ok(Place::Backup(path)),
        Err(error) => Err(Failure::new(format!("{}: {error}", path.display()))),
    }
}

pub(super) fn run(command: StoreCommand) -> Result<(), Failure> {
    match command {
        StoreCommand::Check(args) => check(&args),
        StoreCommand::Backup(args) => backup(&args),
        StoreCommand::Export(args) => export(&args),
    }
}

fn check(args: &CheckArgs) -> Result<(), Failure> {
    let place = args.place.place()?;
    let opened = Archive::open_alone(&place);
    let hint =
        "stop the coordinator first, or check a backup: `concord store backup` makes one while it runs";
    let mut archive = opened.map_err(|error| match error {
        StoreError::InUse { path, pid } => {
            let by = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
            Failure::new(format!("{} is in use by a coordinator{by}", path.display())).with_hint(hint)
        }
        error => Failure::from(error),
    })?;
    let found = inspect(&mut archive)?;
    let sound = found.is_sound();
    output(args.json).show(&StoreReport::from(found))?;
    if sound { Ok(()) } else { Err(Failure::new("the store is damaged").with_exit_code(EXIT_STORE)) }
}

fn inspect(archive: &mut Archive) -> Result<Inspection, Failure> {
    let total = archive.facts().ok().map(|facts| facts.live + facts.ended);
    let bar = progress::transactions(total);
    let found = inspection::inspect(archive, || bar.inc(1));
    bar.finish_and_clear();
    Ok(found?)
}

fn backup(args: &BackupArgs) -> Result<(), Failure> {
    let archive = Archive::open(&args.config.place()?)?;
    let bar = progress::waiting("copying");
    let copied = archive.back_up(&args.to);
    bar.finish_and_clear();
    copied?;
    let found = inspect(&mut Archive::open(&Place::Backup(args.to.clone()))?)?;
    let sound = found.is_sound();
    output(args.json).show(&BackupReport::new(&args.to, found))?;
    if sound { Ok(()) } else { Err(damaged_copy(&args.to)) }
}

fn damaged_copy(to: &Path) -> Failure {
    Failure::new(format!("the store, and so its copy {}, is damaged", to.display()))
        .with_exit_code(EXIT_STORE)
}

fn export(args: &ExportArgs) -> Result<(), Failure> {
    let place = args.place.place()?;
    let mut archive = Archive::open(&place)?;
    let span = Span { from: args.since.unwrap_or_default(), until: UnixMillis::now() };
    let states: Vec<i32> = args.state.iter().map(|state| v1::TransactionState::from(*state).into()).collect();
    let total = match args.since {
        Some(_) => None,
        None => archive.facts().ok().map(|facts| facts.live + facts.ended),
    };
    // Where the lines go to a terminal they are progress enough.
    let bar = if stdout().is_terminal() { ProgressBar::hidden() } else { progress::transactions(total) };
    let mut out = BufWriter::new(stdout().lock());
    let mut unreadable = 0u64;
    archive.walk(span, |_, _, stored| {
        bar.inc(1);
        match stored.and_then(|stored| inspection::transaction(&stored)) {
            Ok(transaction) if states.is_empty() || states.contains(&transaction.state) => {
                write_line(&mut out, transaction)
            }
            Ok(_) => Ok(()),
            Err(error) => {
                unreadable += 1;
                bar.suspend(|| Failure::from(error).report(false));
                Ok(())
            }
        }
    })?;
    out.flush()?;
    bar.finish_and_clear();
    match unreadable {
        0 => Ok(()),
        _ => {
            let said = format!("cannot be read, and missing above: {}", counted(unreadable, "transaction"));
            Err(Failure::new(said).with_exit_code(EXIT_STORE))
        }
    }
}

fn write_line(out: &mut impl Write, transaction: v1::Transaction) -> Result<(), Failure> {
    let record = TransactionRecord::with_history(transaction);
    serde_json::to_writer(&mut *out, &record).map_err(std::io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_url_is_refused_without_its_password() {
        for url in ["postgres://u:s3cret@h", "mysql://u:s3cret@/d", "oracle://u:s3cret@h/d"] {
            let Err(Failure::Said { message, .. }) = named(url) else { panic!("{url}") };
            assert!(!message.contains("s3cret"), "{message}");
        }
    }
}
