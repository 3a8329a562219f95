//! The failure of the store, which ends the process.

use std::sync::OnceLock;

use tokio::sync::Notify;

use crate::store::StoreError;

/// Whether the store has failed, and why. Unlike a watch channel it wakes those who wait in the order in which they
/// came, so that a simulation can be repeated.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    cause: OnceLock<StoreError>,
    known: Notify,
}

impl Failure {
    /// Why, once it has.
    pub(crate) fn cause(&self) -> Option<&StoreError> {
        self.cause.get()
    }

    /// Logs and keeps the first error, and wakes those who wait for it. It is in the log before anyone acts on it.
    pub(crate) fn report(&self, error: StoreError) {
        self.cause.get_or_init(|| {
            tracing::error!(error = error.to_string(), "the store failed; stopping");
            error
        });
        self.known.notify_waiters();
    }

    /// Waits until the store fails.
    pub(crate) async fn wait(&self) -> StoreError {
        loop {
            let known = self.known.notified();
            tokio::pin!(known);
            // From here on no report is missed.
            known.as_mut().enable();
            if let Some(error) = self.cause.get() {
                return error.clone();
            }
            known.await;
        }
    }
}
