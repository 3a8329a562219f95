//! The programs of the layers, built once, with the bugs in them.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::layer::{Layer, Program};

/// Apart from the programs that people run.
const TARGET: &str = "target/mutants";

/// Where each program is.
pub(crate) struct Programs(HashMap<(String, bool), Built>);

/// A program that can be run.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    pub(crate) executable: PathBuf,
    /// Where `cargo test` would run it.
    pub(crate) folder: PathBuf,
}

/// What cargo says of an artefact, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Profile {
    test: bool,
}

impl Programs {
    /// Builds what the layers run.
    pub(crate) fn build(layers: &[Layer]) -> Result<Programs> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
        let wanted: Vec<_> = layers.iter().flat_map(|layer| layer.programs()).collect();
        let mut packages: Vec<_> = wanted.iter().map(|program| program.package).collect();
        packages.sort_unstable();
        packages.dedup();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(&root).args(["test", "--no-run", "--locked", "--profile", "mutants"]);
        command.args(["--target-dir", TARGET, "--message-format", "json-render-diagnostics"]);
        // Selected only to switch the bugs on; one build has one set of features.
        command.args(["--package", "concord-seeded-bugs", "--features", "concord-seeded-bugs/enabled"]);
        command.args(packages.iter().flat_map(|package| ["--package", package]));
        let mut build = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
        let mut built = HashMap::new();
        if let Some(messages) = build.stdout.take() {
            for line in BufReader::new(messages).lines() {
                read(&line?, &mut built);
            }
        }
        ensure!(build.wait()?.success(), "the programs cannot be built");
        let programs = Programs(built);
        for program in wanted {
            programs.find(program)?;
        }
        Ok(programs)
    }

    pub(crate) fn find(&self, program: &Program) -> Result<&Built> {
        match self.0.get(&(program.target.to_owned(), program.is_test)) {
            Some(built) => Ok(built),
            None => bail!("cargo did not build {} of {}", program.target, program.package),
        }
    }
}

fn read(line: &str, built: &mut HashMap<(String, bool), Built>) {
    // Messages of other kinds have none of this.
    let Ok(message) = serde_json::from_str::<Message>(line) else { return };
    let Message { executable: Some(executable), manifest_path: Some(manifest), .. } = message else { return };
    let (Some(target), Some(profile)) = (message.target, message.profile) else { return };
    let folder = manifest.parent().map(Path::to_path_buf).unwrap_or_default();
    built.insert((target.name, profile.test), Built { executable, folder });
}
