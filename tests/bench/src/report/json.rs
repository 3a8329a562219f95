//! For programs: a line for each outcome, a JSON object each.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::outcome::Outcome;

/// Written as it comes: what was measured before a failure is there.
pub(crate) struct JsonFile(File);

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    outcome: &'a Outcome,
    reached: bool,
}

impl JsonFile {
    /// # Errors
    /// When the file cannot be made.
    pub(crate) fn create(path: &Path) -> Result<JsonFile> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(JsonFile(file))
    }

    /// # Errors
    /// When it cannot be written.
    pub(crate) fn add(&mut self, outcomes: &[Outcome]) -> Result<()> {
        for outcome in outcomes {
            writeln!(self.0, "{}", line(outcome)?)?;
        }
        Ok(())
    }
}

fn line(outcome: &Outcome) -> Result<String> {
    Ok(serde_json::to_string(&Line { outcome, reached: outcome.reached() })?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Bound;

    #[test]
    fn an_outcome_is_one_object_with_its_bounds_and_whether_they_hold() {
        let figure = Outcome::figure("x", 5.0, "ms").at(64);
        let outcome = Outcome { ratio: Some(0.8), ..figure }.ratio_wanted(Bound::AtLeast(0.9)).detail("one");
        let expected = r#"{"name":"x","database":null,"concurrency":64,"ours":5.0,"baseline":null,"ratio":0.8,"unit":"ms","p50":null,"p99":null,"baseline_p50":null,"baseline_p99":null,"syncs_per_tx":null,"baseline_syncs_per_tx":null,"wanted":[{"of":"ratio","at_least":0.9}],"detail":"one","reached":false}"#;
        assert_eq!(line(&outcome).unwrap(), expected);
    }
}
