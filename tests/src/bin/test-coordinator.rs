//! The coordinator as the `concord` program runs it: the same configuration, the same signals, the same exit
//! codes. It obeys lines about crash points, and ends as by SIGKILL when the test that started it is gone.

use std::io::BufRead as _;
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
    /// Crash point to be armed: `NAME`, `NAME:NTH`, `NAME:NTH:LINGER_MS` or `NAME:NTH:LINGER_MS:PID`
    #[arg(long)]
    crash_at: Option<String>,
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
    let args = Args::parse();
    args.crash_at.as_deref().map(concord_tests::points::arm).transpose()?;
    let config = Config::load(&args.sources()?)?.config;
    let filter = EnvFilter::try_new(&config.log.filter)?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    concord_coordinator::serve::end_on_panic();
    std::thread::spawn(|| {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            match concord_tests::points::obey(&line) {
                Some(Ok(answer)) => println!("ok {answer}"),
                Some(Err(error)) => println!("error {error:#}"),
                None => println!("error not understood: {line:?}"),
            }
        }
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
