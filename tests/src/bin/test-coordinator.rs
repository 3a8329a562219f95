//! The coordinator as the `concord` program runs it: the same configuration, the same signals, the same exit
//! codes. It ends as by SIGKILL when the test that started it is gone.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use concord_coordinator::config::{Config, Flag, FlagValue, Sources};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A coordinator for tests.
#[derive(Debug, Parser)]
struct Args {
    /// Configuration file
    #[arg(long)]
    config: Option<PathBuf>,
    /// Any key of the configuration
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Args {
    fn sources(&self) -> anyhow::Result<Sources> {
        let mut flags = Vec::new();
        for assignment in &self.set {
            let Some((key, value)) = assignment.split_once('=') else {
                anyhow::bail!("--set takes KEY=VALUE, not {assignment:?}");
            };
            let value = FlagValue::One(value.to_owned());
            flags.push(Flag { flag: "--set".to_owned(), key: key.to_owned(), value });
        }
        Ok(Sources { file: self.config.clone(), environment: Vec::new(), flags })
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let config = Config::load(&Args::parse().sources()?)?.config;
    let filter = EnvFilter::try_new(&config.log.filter)?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    std::thread::spawn(|| {
        std::io::stdin().read_to_end(&mut Vec::new()).ok();
        std::process::exit(137);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = async move {
            terminate.recv().await;
        };
        Ok(match concord_coordinator::serve::run(config, shutdown).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(error.exit_code())
            }
        })
    })
}
