//! The demo's services end when the demo does, even if it was killed.

use std::io::Read as _;

/// Waits until the process that started this one is gone: it holds the other end of standard input.
pub(crate) async fn gone() {
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    // Not tokio's stdin: its thread would keep the runtime from shutting down.
    std::thread::spawn(move || {
        std::io::stdin().read_to_end(&mut Vec::new()).ok();
        drop(end);
    });
    // The sender sends nothing; it is dropped.
    ended.await.ok();
}
