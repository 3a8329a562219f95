//! What is written to the log, for tests of it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Kept {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// What this thread logs, from INFO on, until it is dropped.
pub(crate) struct Logging {
    kept: Kept,
    _guard: DefaultGuard,
}

impl Logging {
    pub(crate) fn start() -> Self {
        let kept = Kept::default();
        let lines = tracing_subscriber::fmt().with_ansi(false).without_time().with_writer(kept.clone());
        Logging { kept, _guard: tracing::subscriber::set_default(lines.finish()) }
    }

    pub(crate) fn text(&self) -> String {
        let bytes = self.kept.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// What is logged meanwhile.
pub(crate) fn logged(work: impl FnOnce()) -> String {
    let logging = Logging::start();
    work();
    logging.text()
}
