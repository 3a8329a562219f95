//! `concord doctor`: whether what a coordinator needs is there, and how to mend what is not.

mod clock;
mod database;
mod disk;
mod network;

use clap::Args;
use concord_coordinator::config::Config;
use concord_coordinator::security::{check_exposure, check_files};
use concord_coordinator::serve::check_address;
use futures_util::future::join_all;

use super::client::output;
use super::configuration::ConfigArgs;
use super::failure::Failure;
use super::view::{DoctorReport, Finding, counted};

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
It looks at the configuration; at certificates and tokens; the data directory, its disk and how long a sync takes; each [[resource]] and the database \
of a shared store: whether they can be reached, their settings, their clocks, and what is in doubt; the address to listen \
on; and the addresses of participants.allow and of each [[service]]. It takes what `concord serve` takes, the coordinator may be running, and it \
changes nothing but for a small file that it writes, syncs and removes in the data directory.

Examples:
  concord doctor --config /etc/concord/concord.toml --environment-file /etc/concord/secrets.env
  concord doctor --json | jq '.findings[] | select(.level != \"ok\")'

Exit codes: 0 nothing failed (there may be warnings), 1 something did.")]
pub(super) struct DoctorArgs {
    /// Print JSON with stable field names, instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) async fn run(args: DoctorArgs) -> Result<(), Failure> {
    let findings = match args.config.load() {
        Ok(loaded) => examine(&loaded.config).await,
        Err(Failure::Said { message, .. }) => message.lines().map(misconfigured).collect(),
        Err(failure) => return Err(failure),
    };
    let report = DoctorReport::new(findings);
    output(args.json).show(&report)?;
    match report.failures() {
        0 => Ok(()),
        failures => Err(Failure::new(format!("{} failed", counted(failures as u64, "check")))),
    }
}

fn misconfigured(problem: &str) -> Finding {
    let mend =
        "`concord config example` explains every key; what depends on the configuration was not checked";
    Finding::failure("configuration", "configuration", problem, mend)
}

/// Whether callers are asked who they are, and whether the files for that can be used, now and in two weeks.
fn security(config: &Config) -> Vec<Finding> {
    let (check, subject) = ("security", "server, security, calls");
    let mend =
        "docs/security.md says how to set up TLS and tokens; `concord config check` looks at the files";
    let known = config.security.tokens.is_some() || config.security.jwks.is_some();
    let files = check_files(config);
    let concerns = files.as_deref().unwrap_or_default().iter();
    let concerns = concerns.map(|one| Finding::warning(check, one.key, one.detail(), one.mend)).collect();
    let whole = match (check_exposure(config), files) {
        (Err(exposed), _) => Finding::failure(check, subject, exposed.to_string(), mend),
        (_, Err(error)) => Finding::failure(check, subject, error.to_string(), mend),
        _ if known || config.server.tls_client_ca.is_some() => {
            Finding::ok(check, subject, "callers are asked who they are; the files can be used")
        }
        _ if config.server.listen.ip().is_loopback() => {
            Finding::ok(check, subject, "whoever is on this machine may do everything; nobody else gets in")
        }
        _ => Finding::warning(
            check,
            subject,
            "whoever reaches it may do everything (security.allow_insecure)",
            mend,
        ),
    };
    [vec![whole], concerns].concat()
}

async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("configuration", "configuration", "no problems found")];
    findings.extend(security(config));
    match &config.store.url {
        None => findings.extend(disk::examine(&config.store.data_dir)),
        Some(url) => findings.extend(database::store(url).await),
    }
    let resources = join_all(config.resources.iter().map(database::resource)).await;
    findings.extend(resources.into_iter().flatten());
    if let Err(error) = check_address(config) {
        let mend = "a host and a port of this machine that the others reach, and no other coordinator has (docs/cluster.md)";
        findings.push(Finding::failure("address", "cluster.address", error.to_string(), mend));
    }
    findings.push(network::listen(config).await);
    let participants = join_all(config.participants.allow.patterns().map(network::participant)).await;
    findings.extend(participants.into_iter().flatten());
    let services = join_all(config.services.iter().map(network::service)).await;
    findings.extend(services.into_iter().flatten());
    findings
}
