//! `concord serve`: the coordinator itself.

mod reload;

use std::io::{IsTerminal as _, stderr};
use std::sync::Arc;

use clap::Args;
use concord_coordinator::config::{Config, Log, LogFormat};
use concord_coordinator::engine::Machine;
use futures_util::StreamExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry};

use super::client::colour_wanted;
use super::configuration::ConfigArgs;
use super::failure::{EXIT_FAILED, Failure};

/// Arguments of `concord serve`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
SIGTERM and SIGINT stop it in good order: calls in progress get the time of shutdown.grace_ms, and what has not \
ended is taken up again at the next start. A second signal stops it at once; nothing durable is lost by that either.

On SIGHUP, and when the configuration file or a file that it names has changed, all of them are read again: certificates, \
tokens, and the keys of which `concord config example` says that they can be changed. The log tells what has changed.

`concord config example` explains every key of the file. In the environment, the key listen of [server] is \
CONCORD_SERVER_LISTEN, and so on.

Examples:
  concord serve
  concord serve --data-dir /var/lib/concord --allow 'http://*.svc.local:*'
  concord serve --config concord.toml --set limits.live_transactions_max=50000

Exit codes: 0 stopped in good order, 1 failed, 2 bad usage or configuration, 3 the store failed.")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the coordinator until a signal stops it.
pub(super) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let config = args.config.load()?.config;
    let filter = start_log(&config.log)?;
    concord_coordinator::serve::end_on_panic();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(config, args.config.clone(), filter))
}

async fn serve(config: Config, args: ConfigArgs, filter: Filter) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let wanted =
        reload::configurations(args, &config)?.inspect(move |reading| refilter(&filter, &reading.config.log));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let name = signals.next().await;
        tracing::info!(signal = name, "stopping; once more to stop at once");
        // Without a receiver the coordinator has stopped already.
        let _ = stop.send(());
        let name = signals.next().await;
        tracing::warn!(signal = name, "stopping at once");
        std::process::exit(EXIT_FAILED.into());
    });
    let shutdown = async move {
        let _ = stopped.await;
    };
    concord_coordinator::serve::run_in(config, Arc::new(Machine), wanted, shutdown)
        .await
        .map_err(|error| Failure::new(causes(&error)).with_exit_code(error.exit_code()))
}

/// The signals that stop a service.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for one of them; its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// What of the log is written; it can be changed.
type Filter = Handle<EnvFilter, Registry>;

/// Log lines go to standard error: standard output belongs to results.
fn start_log(log: &Log) -> Result<Filter, Failure> {
    let filter =
        EnvFilter::try_new(&log.filter).map_err(|error| Failure::usage(format!("log.filter: {error}")))?;
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    // What cannot be written is lost: told about on standard error, where it cannot be told either, it would be a panic.
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr).log_internal_errors(false);
    let lines = match log.format {
        LogFormat::Text => lines.with_ansi(stderr().is_terminal() && colour_wanted()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let started = tracing_subscriber::registry().with(filter).with(lines).try_init();
    started.map_err(|error| Failure::new(format!("cannot start the log: {error}")))?;
    Ok(handle)
}

fn refilter(filter: &Filter, log: &Log) {
    // The configuration holds none that is wrong, and the log ends with the process.
    if let Ok(wanted) = EnvFilter::try_new(&log.filter) {
        let _ = filter.reload(wanted);
    }
}

/// An error with what caused it, on one line; causes that the text before them already tells are left out.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
