//! The configuration on the command line: the flags that set it, and `concord config`.

use std::env;
use std::path::{Path, PathBuf};

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use concord_coordinator::config::{Config, Flag, FlagValue, Loaded, Sources, example};
use concord_coordinator::security::{check_exposure, check_files};

use super::failure::{Failure, printable};
use super::view::print;

/// The file that is read when none is named, if it is there.
const FILE_DEFAULT: &str = "concord.toml";

/// Flags that set the configuration; they stand above the environment, which stands above the file.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Configuration")]
pub(super) struct ConfigArgs {
    /// Configuration file [default: ./concord.toml, if there is one]
    #[arg(long, env = "CONCORD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port to listen on, e.g. 127.0.0.1:7600 (server.listen)
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Directory of the log (store.data_dir)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Where the log is: sqlite:DIR, or a database that several coordinators may share: mysql://… (for MariaDB too),
    /// postgres://… (store.url)
    #[arg(long, value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    store: Option<String>,
    /// Whom the coordinator may call, e.g. 'https://*.svc.local:7101'; may be repeated, and stands in place of the
    /// configured list (participants.allow)
    #[arg(long, value_name = "PATTERN")]
    allow: Vec<String>,
    /// "text" or "json" (log.format)
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// What to log, e.g. debug (log.filter)
    #[arg(long, value_name = "FILTER")]
    log_filter: Option<String>,
    /// Any other key, e.g. --set transaction.timeout_default_ms=5000; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_assignment)]
    set: Vec<(String, String)>,
}

fn parse_assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl ConfigArgs {
    /// Reads all layers.
    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        let sources = Sources { file: self.file(), environment: environment()?, flags: self.flags() };
        Ok(Config::load(&sources)?)
    }

    /// The configuration file, if there is one.
    pub(super) fn file(&self) -> Option<PathBuf> {
        let present = || Some(PathBuf::from(FILE_DEFAULT)).filter(|file| file.exists());
        self.config.clone().or_else(present)
    }

    fn flags(&self) -> Vec<Flag> {
        let one = |flag: &str, key: &str, value: &Option<String>| {
            value.as_ref().map(|value| Flag {
                flag: flag.to_owned(),
                key: key.to_owned(),
                value: FlagValue::One(value.clone()),
            })
        };
        let set = self.set.iter().filter_map(|(key, value)| one("--set", key, &Some(value.clone())));
        let allow = (!self.allow.is_empty()).then(|| Flag {
            flag: "--allow".to_owned(),
            key: "participants.allow".to_owned(),
            value: FlagValue::Many(self.allow.clone()),
        });
        let named = [
            one("--listen", "server.listen", &self.listen),
            one("--data-dir", "store.data_dir", &self.data_dir),
            one("--store", "store.url", &self.store),
            allow,
            one("--log-format", "log.format", &self.log_format),
            one("--log-filter", "log.filter", &self.log_filter),
        ];
        set.chain(named.into_iter().flatten()).collect()
    }
}

/// Our part of the process's environment.
fn environment() -> Result<Vec<(String, String)>, Failure> {
    let ours = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let name = name.into_string().ok().filter(|name| name.starts_with("CONCORD_"))?;
        match value.into_string() {
            Ok(value) => Some(Ok((name, value))),
            Err(_) => Some(Err(Failure::usage(format!("{name}: the value is not UTF-8")))),
        }
    };
    env::vars_os().filter_map(ours).collect()
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the configuration that `concord serve` would have, and where each value comes from
    #[command(
        after_help = "Passwords are shown as ***.\n\nExample:\n  concord config show --config concord.toml --listen '[::1]:7600'"
    )]
    Show(ConfigArgs),
    /// Check a file, and the certificates and tokens that it names; neither the environment nor flags have a part in it
    Check {
        /// The file
        #[arg(value_name = "FILE", default_value = FILE_DEFAULT)]
        file: PathBuf,
    },
    /// Print every key with its meaning, its limits and its default
    #[command(after_help = "Example:\n  concord config example > concord.toml")]
    Example,
}

pub(super) fn run(command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Show(args) => print(&args.load()?.to_toml())?,
        ConfigCommand::Check { file } => check(&file)?,
        ConfigCommand::Example => print(&example())?,
    }
    Ok(())
}

fn check(file: &Path) -> Result<(), Failure> {
    let config = Config::load(&Sources { file: Some(file.to_owned()), ..Sources::default() })?.config;
    check_exposure(&config).map_err(|error| Failure::usage(error.to_string()))?;
    let concerns = check_files(&config).map_err(|error| Failure::usage(error.to_string()))?;
    for concern in &concerns {
        eprintln!("warning: {}\nhint: {}", printable(&concern.to_string()), concern.mend);
    }
    let found = match concerns.len() {
        0 => "no problems found",
        _ => "it can be used; see the warnings",
    };
    print(&format!("{}: {found}\n", file.display()))?;
    Ok(())
}
