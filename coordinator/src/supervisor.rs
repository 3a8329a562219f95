//! What the coordinator tells the system's service manager, if there is one that wants to know (systemd's `sd_notify`).

use sd_notify::NotifyState;

/// It serves.
pub(crate) fn ready() {
    tell(NotifyState::Ready);
}

/// It is on its way out.
pub(crate) fn stopping() {
    tell(NotifyState::Stopping);
}

/// Gives signs of life for ever, where a watchdog waits for them (`WatchdogSec=`): as long as tasks are run.
pub(crate) async fn live() {
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(patience / 2);
    loop {
        ticks.tick().await;
        tell(NotifyState::Watchdog);
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
