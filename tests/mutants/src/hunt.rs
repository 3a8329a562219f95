//! Runs layers against bugs.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use concord_seeded_bugs::{Bug, SWITCH};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::layer::{Layer, Program};
use crate::programs::Programs;

/// What is run, and how.
pub(crate) struct Hunt {
    pub(crate) programs: Programs,
    pub(crate) layers: Vec<Layer>,
    /// All layers, also when one has caught the bug.
    pub(crate) all: bool,
    pub(crate) limit: Duration,
}

/// What became of one bug.
#[derive(Debug, Serialize)]
pub(crate) struct Hunted {
    pub(crate) bug: &'static str,
    pub(crate) home: String,
    pub(crate) what: &'static str,
    pub(crate) runs: Vec<Run>,
}

/// One layer against one bug.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) layer: Layer,
    pub(crate) seconds: f64,
    /// The first thing that failed. None: nothing did.
    pub(crate) caught_by: Option<String>,
}

impl Hunted {
    pub(crate) fn is_caught(&self) -> bool {
        self.runs.iter().any(|run| run.caught_by.is_some())
    }
}

impl Hunt {
    /// What fails without any bug would "catch" them all.
    pub(crate) fn without_bugs(&self) -> Result<()> {
        let progress = progress(self.layers.len());
        for layer in &self.layers {
            progress.set_message(format!("no bug: {layer:?}"));
            if let Some(failure) = self.layer(*layer, None)?.caught_by {
                bail!("the layer {layer:?} fails without any bug: {failure}");
            }
            progress.inc(1);
        }
        progress.finish_and_clear();
        Ok(())
    }

    pub(crate) fn run(&self, bugs: &[&'static Bug]) -> Result<Vec<Hunted>> {
        let progress = progress(bugs.len());
        let mut results = Vec::with_capacity(bugs.len());
        for bug in bugs {
            let mut hunted =
                Hunted { bug: bug.name, home: format!("{:?}", bug.home), what: bug.what, runs: Vec::new() };
            for layer in self.layers.iter().filter(|layer| layer.contains(bug.home)) {
                progress.set_message(format!("{}: {layer:?}", bug.name));
                let run = self.layer(*layer, Some(bug))?;
                let caught = run.caught_by.is_some();
                tell(&progress, line(bug, &run));
                hunted.runs.push(run);
                if caught && !self.all {
                    break;
                }
            }
            results.push(hunted);
            progress.inc(1);
        }
        progress.finish_and_clear();
        Ok(results)
    }

    /// Runs a layer's programs until one fails.
    fn layer(&self, layer: Layer, bug: Option<&Bug>) -> Result<Run> {
        let started = Instant::now();
        let mut caught_by = None;
        for program in layer.programs() {
            caught_by = self.program(program, bug)?;
            if caught_by.is_some() {
                break;
            }
        }
        Ok(Run { layer, seconds: started.elapsed().as_secs_f64(), caught_by })
    }

    /// Runs a program; answers with what failed in it, if anything did.
    fn program(&self, program: &Program, bug: Option<&Bug>) -> Result<Option<String>> {
        let built = self.programs.find(program)?;
        let mut output = tempfile()?;
        let mut command = Command::new(&built.executable);
        command.args(program.arguments).current_dir(&built.folder).stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output.try_clone()?);
        command.env("INSTA_UPDATE", "no").env("RUST_BACKTRACE", "0").env_remove(SWITCH);
        command.envs(bug.map(|bug| (SWITCH, bug.name)));
        let mut child = command.spawn().with_context(|| format!("cannot run {}", program.target))?;
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if started.elapsed() > self.limit {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if status.is_some_and(|status| status.success()) {
            return Ok(None);
        }
        let mut text = String::new();
        output.rewind()?;
        output.read_to_string(&mut text)?;
        let what = match status {
            Some(_) => failure(&text),
            None => format!("hangs for {} s", self.limit.as_secs()),
        };
        Ok(Some(format!("{}: {what}", program.target)))
    }
}

/// The first failed test, or else the first line that tells of a violation.
fn failure(text: &str) -> String {
    let test = text.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let violation =
        || text.lines().map(str::trim).find(|line| line.contains("violat") || line.contains("broken"));
    let last = || text.lines().map(str::trim).rfind(|line| !line.is_empty());
    let found = test.or_else(violation).or_else(last).unwrap_or("failed without a word");
    found.chars().take(100).collect()
}

fn line(bug: &Bug, run: &Run) -> String {
    let result = run.caught_by.as_deref().unwrap_or("not caught");
    format!("{}: {:?} {:.1} s: {result}", bug.name, run.layer, run.seconds)
}

/// Where there is no terminal, a bar prints nothing.
fn tell(progress: &ProgressBar, line: String) {
    match progress.is_hidden() {
        true => eprintln!("{line}"),
        false => progress.println(line),
    }
}

fn progress(length: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed_precise} {bar:30} {pos}/{len} {msg}");
    let bar = ProgressBar::new(u64::try_from(length).unwrap_or(u64::MAX));
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn tempfile() -> Result<File> {
    tempfile::tempfile().context("cannot make a temporary file")
}
