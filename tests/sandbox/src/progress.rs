//! One line on stderr while something takes long; nothing when it is quick.

use std::{
    io::{IsTerminal, stderr},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// Anything quicker than this is not worth a line.
const SILENT_FOR: Duration = Duration::from_millis(1_000);
/// Where stderr is a file (a CI log), one line per this time.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// Shows what is going on until dropped. On a terminal it is a spinner that goes away; elsewhere plain lines.
pub(crate) struct Progress {
    message: Arc<Mutex<String>>,
    /// Dropping it tells the thread to end.
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    pub(crate) fn new(message: impl Into<String>) -> Progress {
        let message = Arc::new(Mutex::new(message.into()));
        let (done, ended) = channel::<()>();
        let shared = Arc::clone(&message);
        // No thread, no progress line: that is not worth failing for.
        let thread = thread::Builder::new()
            .name("sandbox-progress".into())
            .spawn(move || {
                let current = || shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if ended.recv_timeout(SILENT_FOR) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                if stderr().is_terminal() {
                    let bar = ProgressBar::new_spinner().with_style(style());
                    while ended.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
                        bar.set_message(current());
                        bar.tick();
                    }
                    bar.finish_and_clear();
                } else {
                    let started = Instant::now();
                    eprintln!("sandbox: {}", current());
                    while ended.recv_timeout(LINE_EVERY) == Err(RecvTimeoutError::Timeout) {
                        eprintln!("sandbox: {} ({} s)", current(), started.elapsed().as_secs());
                    }
                }
            })
            .ok();
        Progress { message, done: Some(done), thread }
    }

    pub(crate) fn set(&self, message: impl Into<String>) {
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = message.into();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.done.take();
        if let Some(thread) = self.thread.take() {
            // A panic in the progress line is not worth another one.
            thread.join().ok();
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} sandbox: {wide_msg} {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}
