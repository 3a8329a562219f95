//! The life of a process: what it is doing ends with it, between one instruction and the next.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use tokio::sync::Notify;

use crate::world::locked;

/// One life of a process, from its start to its kill -9.
#[derive(Debug, Default)]
pub(crate) struct Life {
    over: AtomicBool,
    ended: Notify,
    frozen: AtomicBool,
    /// What waits until it goes on, in the order in which it came.
    waiting: Mutex<Vec<Waker>>,
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

    /// SIGSTOP: nothing that runs [within](Self::within) this life takes a step until it goes on.
    pub(crate) fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.frozen.store(false, Ordering::Relaxed);
        let waiting = std::mem::take(&mut *locked(&self.waiting));
        waiting.into_iter().for_each(Waker::wake);
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
            value = self.while_awake(work) => Some(value),
        }
    }

    /// Runs `work`, but takes no step of it while this life stands still.
    pub(crate) async fn while_awake<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            if self.is_frozen() {
                locked(&self.waiting).push(context.waker().clone());
                return Poll::Pending;
            }
            work.as_mut().poll(context)
        })
        .await
    }
}
