//! The kernel's own way to cut a link: in a network namespace of the run's own, packets to or from the link's port are
//! dropped. Then even connections cannot be made, and what is sent is sent again by the kernel's timers.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};

/// The rules of a namespace in which nothing else has any; those of an earlier run go.
const RULES: &str = "\
add table inet jepsen
delete table inet jepsen
add table inet jepsen
add set inet jepsen there { type inet_service; }
add set inet jepsen back { type inet_service; }
add chain inet jepsen input { type filter hook input priority 0; }
add rule inet jepsen input tcp dport @there drop
add rule inet jepsen input tcp sport @back drop
";

/// Drops packets by port. One for each namespace.
#[derive(Debug, Default)]
pub struct Firewall {
    /// The directions (`there` or `back`) and ports that are blocked.
    blocked: Mutex<BTreeSet<(&'static str, u16)>>,
    /// The first thing that `nft` did not do.
    failure: Mutex<Option<anyhow::Error>>,
}

impl Firewall {
    /// Sets up the rules of this process's network namespace.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn set_up() -> Result<Firewall> {
        obey(RULES)?;
        Ok(Firewall::default())
    }

    /// Drops, or no longer drops, what goes to a link's port, and what comes from it. See [`Firewall::failure`].
    pub(super) fn set(&self, port: u16, there: bool, back: bool) {
        let mut blocked = lock(&self.blocked);
        let mut orders = String::new();
        for (set, wanted) in [("there", there), ("back", back)] {
            let (changed, order) = match wanted {
                true => (blocked.insert((set, port)), "add"),
                false => (blocked.remove(&(set, port)), "delete"),
            };
            if changed {
                orders.push_str(&format!("{order} element inet jepsen {set} {{ {port} }}\n"));
            }
        }
        if !orders.is_empty()
            && let Err(error) = obey(&orders)
        {
            lock(&self.failure).get_or_insert(error);
        }
    }

    /// The first thing that could not be done: a run in which there was one shows nothing.
    pub fn failure(&self) -> Option<anyhow::Error> {
        lock(&self.failure).take()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has `nft` carry out orders, all or none.
fn obey(orders: &str) -> Result<()> {
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut running = nft.spawn().context("run nft")?;
    running.stdin.take().context("its standard input")?.write_all(orders.as_bytes())?;
    let output = running.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "nft refuses {orders:?}: {}", said.trim());
    Ok(())
}
