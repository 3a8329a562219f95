//! A network namespace of the run's own, in which links can be cut without touching the machine's network.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use concord_sandbox::{Environment, Flavor, locate};

use super::StoreKind;

/// Set in a process that is inside.
const INSIDE: &str = "JEPSEN_NAMESPACE";
/// What is needed to make one and to cut links in it.
const TOOLS: [&str; 4] = ["unshare", "ip", "nft", "sh"];
/// In it even the loopback device is down at first.
const ENTER: &str = "ip link set lo up && exec \"$0\" \"$@\"";

/// Whether this process runs in a namespace of the harness's own.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Why there can be no namespace here; None when there can.
pub fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("it takes root".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there =
        |tool: &OsStr| std::env::split_paths(&path).any(|directory| directory.join(tool).is_file());
    if let Some(tool) = TOOLS.iter().find(|tool| !is_there(OsStr::new(tool))) {
        return Some(format!("there is no program {tool:?} (Debian: util-linux, iproute2, nftables)"));
    }
    // Containers often allow root nothing of this.
    let mut trial = Command::new("unshare");
    trial.args(["--net", "--", "sh", "-c", "ip link set lo up && nft add table inet jepsen"]);
    match trial.output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// Goes on in a namespace of its own, as this program with the same arguments; returns only on failure. Nothing can be
/// fetched from inside: the database servers are fetched before.
///
/// # Errors
/// When the server cannot be had, or the system refuses.
pub fn enter(flavor: Flavor, store: Option<StoreKind>) -> Result<()> {
    locate(&Environment::from_process(), flavor)?;
    store.map_or(Ok(()), StoreKind::fetch)?;
    let program = std::env::current_exe().context("find this program's own file")?;
    let mut again = Command::new("unshare");
    again.args(["--net", "--", "sh", "-c", ENTER]).arg(program).args(std::env::args_os().skip(1));
    bail!("cannot make a network namespace: {}", again.env(INSIDE, "1").exec());
}
