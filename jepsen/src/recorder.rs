//! Writes the history of a run while it goes on.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use clojure_reader::edn::Edn;

use crate::history::{Operation, Process, Type};

/// A history under way. Lines are in the order of their times.
#[derive(Debug)]
pub struct Recorder {
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: BufWriter<File>,
    history: Vec<Operation>,
    /// The first line that could not be written.
    failure: Option<std::io::Error>,
}

impl Recorder {
    /// Begins a history.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create(path: &Path) -> Result<Recorder> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        let state = State { file: BufWriter::new(file), history: Vec::new(), failure: None };
        Ok(Recorder { started: Instant::now(), state: Mutex::new(state) })
    }

    /// Adds a line.
    pub fn record(
        &self,
        process: Process,
        kind: Type,
        f: &str,
        value: Edn<'static>,
        error: Option<Edn<'static>>,
    ) {
        let mut state = self.lock();
        // Under the lock, so that no line is older than the one before it.
        let time_ns = i64::try_from(self.started.elapsed().as_nanos()).unwrap_or(i64::MAX);
        let index = i64::try_from(state.history.len()).unwrap_or(i64::MAX);
        let operation = Operation { index, time_ns, process, kind, f: f.to_owned(), value, error };
        if let Err(failure) = writeln!(state.file, "{operation}") {
            state.failure.get_or_insert(failure);
        }
        state.history.push(operation);
    }

    /// How many operations of clients have ended well, ended badly, and are not known: so far.
    pub fn outcomes(&self) -> [usize; 3] {
        let state = self.lock();
        let count = |kind| {
            let of_clients = state.history.iter().filter(|one| one.process != Process::Nemesis);
            of_clients.filter(|one| one.kind == kind).count()
        };
        [Type::Ok, Type::Fail, Type::Info].map(count)
    }

    /// Ends the history; answers with all of it.
    ///
    /// # Errors
    /// When a line could not be written.
    pub fn finish(&self) -> Result<Vec<Operation>> {
        let mut state = self.lock();
        if let Some(failure) = state.failure.take() {
            return Err(failure).context("write the history");
        }
        state.file.flush().context("write the history")?;
        Ok(std::mem::take(&mut state.history))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
