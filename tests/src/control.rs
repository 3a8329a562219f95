//! Lines to a program's standard input, each answered by one line on its standard output: `ok …` or `error …`.

use std::io::{BufRead as _, BufReader};
use std::process::ChildStdout;

use anyhow::{Context as _, Result, bail};

use crate::process::Process;

/// What a program says, while it runs.
#[derive(Debug, Default)]
pub(crate) struct Answers(Option<BufReader<ChildStdout>>);

impl Answers {
    pub(crate) fn of(output: ChildStdout) -> Self {
        Answers(Some(BufReader::new(output)))
    }

    /// Its next line.
    ///
    /// # Errors
    /// When it ends instead.
    pub(crate) async fn line(&mut self) -> Result<String> {
        let mut output = self.0.take().context("it is not running")?;
        // A pipe can only be read blocking; the end of the process ends it.
        let (output, line) = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            let read = output.read_line(&mut line).map(|_| line);
            (output, read)
        })
        .await?;
        self.0 = Some(output);
        match line?.trim_end() {
            "" => bail!("it has closed its standard output"),
            line => Ok(line.to_owned()),
        }
    }

    /// Has a line obeyed. Answers what comes after `ok`.
    ///
    /// # Errors
    /// When it answers with an error, or is not running.
    pub(crate) async fn ask(&mut self, process: &mut Process, line: &str) -> Result<String> {
        process.tell(line)?;
        let answer = self.line().await.with_context(|| process.name().to_owned())?;
        match answer.split_once(' ').unwrap_or((&answer, "")) {
            ("ok", rest) => Ok(rest.to_owned()),
            _ => bail!("{} answered {answer:?} to {line:?}", process.name()),
        }
    }
}
