//! The life of a process: what it is doing ends with it, between one instruction and the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// One life of a process, from its start to its kill -9.
#[derive(Debug, Default)]
pub(crate) struct Life {
    over: AtomicBool,
    ended: Notify,
}

impl Life {
    pub(crate) fn begin() -> Arc<Self> {
        Arc::default()
    }

    /// kill -9. Nothing that runs [within](Self::within) this life takes another step.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.ended.notify_waiters();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Resolves when it ends.
    pub(crate) async fn over(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.is_over() {
                return;
            }
            ended.await;
        }
    }

    /// Runs `work` while this life lasts. None: it was cut off.
    pub(crate) async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            // Looked at before each step of the work: the dead take none.
            biased;
            () = self.over() => None,
            value = work => Some(value),
        }
    }
}
