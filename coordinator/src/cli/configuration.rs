//! The configuration on the command line: the flags that set it, and `concord config`.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use concord_coordinator::config::{Config, Flag, FlagValue, Loaded, Sources, environment_file, example};
use concord_coordinator::security::{check_exposure, check_files};
use concord_coordinator::serve::check_address;

use super::failure::{Failure, printable};
use super::view::print;

/// The file that is read when none is named, if it is there.
const FILE_DEFAULT: &str = "concord.toml";
/// What each variable of ours begins with.
const PREFIX: &str = "CONCORD_";

/// Flags that set the configuration; they stand above the environment, which stands above the file.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Configuration")]
pub(super) struct ConfigArgs {
    /// Configuration file [default: ./concord.toml, if there is one]
    #[arg(long, env = "CONCORD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// File of variables (CONCORD_…) that stand above those of the environment, as systemd's EnvironmentFile= has them; may be
    /// repeated
    #[arg(long, value_name = "FILE")]
    environment_file: Vec<PathBuf>,
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
        self.load_from(self.file())
    }

    fn load_from(&self, file: Option<PathBuf>) -> Result<Loaded, Failure> {
        let mut variables = environment()?;
        for (name, value) in self.environment_files()? {
            variables.insert(name, value);
        }
        let sources = Sources { file, environment: variables.into_iter().collect(), flags: self.flags() };
        Ok(Config::load(&sources)?)
    }

    /// Our part of what the files of variables say.
    fn environment_files(&self) -> Result<Vec<(String, String)>, Failure> {
        let mut variables = Vec::new();
        for file in &self.environment_file {
            variables.extend(environment_file(file)?);
        }
        if self.config.is_none() && variables.iter().any(|(name, _)| name == "CONCORD_CONFIG") {
            return Err(Failure::usage(
                "CONCORD_CONFIG stands in a file of variables, where nothing looks for it",
            )
            .with_hint("name the configuration file with --config"));
        }
        variables.retain(|(name, _)| name.starts_with(PREFIX));
        Ok(variables)
    }

    /// What is read again when it has changed, whatever it says: the configuration file and the files of variables.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.file().into_iter().chain(self.environment_file.iter().cloned())
    }

    /// The configuration file, if there is one.
    fn file(&self) -> Option<PathBuf> {
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
fn environment() -> Result<BTreeMap<String, String>, Failure> {
    let ours = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let name = name.into_string().ok().filter(|name| name.starts_with(PREFIX))?;
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
    /// Check the configuration that `concord serve` would have, and the certificates and tokens that it names
    #[command(after_help = "\
It sees what `concord serve` with the same arguments and in the same environment sees; like it, it needs no file. What a \
service has in a file of variables, or as a credential, has to be named.

Examples:
  concord config check /etc/concord/concord.toml --environment-file /etc/concord/secrets.env
  concord config check concord.toml --set server.tls_key=/etc/concord/tls.key")]
    Check {
        /// The file [default: --config, or ./concord.toml, if there is one]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Print every key with its meaning, its limits and its default
    #[command(after_help = "Example:\n  concord config example > concord.toml")]
    Example,
}

pub(super) fn run(command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Show(args) => print(&args.load()?.to_toml())?,
        ConfigCommand::Check { file, config } => check(file, &config)?,
        ConfigCommand::Example => print(&example())?,
    }
    Ok(())
}

fn check(file: Option<PathBuf>, args: &ConfigArgs) -> Result<(), Failure> {
    let file = file.or_else(|| args.file());
    // In a container all may be in the environment. Whoever meant a file that is elsewhere sees that none was read.
    let subject = match &file {
        Some(file) => file.display().to_string(),
        None => format!("no file (there is no ./{FILE_DEFAULT}), environment and flags only"),
    };
    let config = args.load_from(file)?.config;
    check_exposure(&config).map_err(|error| Failure::usage(error.to_string()))?;
    check_address(&config).map_err(|error| Failure::usage(error.to_string()))?;
    let concerns = check_files(&config).map_err(|error| Failure::usage(error.to_string()))?;
    for concern in &concerns {
        eprintln!("warning: {}\nhint: {}", printable(&concern.to_string()), concern.mend);
    }
    let found = match concerns.len() {
        0 => "no problems found",
        _ => "it can be used; see the warnings",
    };
    print(&format!("{subject}: {found}\n"))?;
    Ok(())
}
