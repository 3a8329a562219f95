//! Where processor time goes, by process. It does not change with what else the machine is doing as much as the clock
//! does.

use anyhow::{Context as _, Result};

/// Processes by what they are to a scenario; this one is the client.
pub(crate) struct Watched(Vec<(&'static str, Vec<u32>)>);

impl Watched {
    pub(crate) fn new(groups: impl IntoIterator<Item = (&'static str, Vec<u32>)>) -> Watched {
        let client = ("client", vec![std::process::id()]);
        Watched(groups.into_iter().chain([client]).collect())
    }

    /// What they have used so far.
    pub(crate) fn look(&self) -> Result<ProcessorTime> {
        let mut seconds = Vec::new();
        for (name, pids) in &self.0 {
            let each: Result<Vec<f64>> = pids.iter().map(|pid| cpu_seconds(*pid)).collect();
            seconds.push((*name, each?.iter().sum()));
        }
        Ok(ProcessorTime(seconds))
    }
}

/// Seconds, by group of processes.
#[derive(Debug, Default, Clone)]
pub(crate) struct ProcessorTime(Vec<(&'static str, f64)>);

impl ProcessorTime {
    /// Adds what was used between two looks at the same processes.
    pub(crate) fn add(&mut self, before: &ProcessorTime, after: &ProcessorTime) {
        if self.0.is_empty() {
            self.0 = before.0.iter().map(|(name, _)| (*name, 0.0)).collect();
        }
        for ((sum, before), after) in self.0.iter_mut().zip(&before.0).zip(&after.0) {
            sum.1 += after.1 - before.1;
        }
    }

    pub(crate) fn total(&self) -> f64 {
        self.0.iter().map(|(_, seconds)| seconds).sum()
    }

    /// `1019 us (databases 585, banks 228, …)`; what is next to nothing is left out.
    pub(crate) fn per_transaction(&self, transactions: u64) -> String {
        let us = |seconds: f64| format!("{:.0}", seconds * 1e6 / transactions as f64);
        let used = self.0.iter().filter(|(_, seconds)| *seconds > 0.0005 * self.total());
        let parts: Vec<String> = used.map(|(name, seconds)| format!("{name} {}", us(*seconds))).collect();
        format!("{} us ({})", us(self.total()), parts.join(", "))
    }
}

/// Processor time of a process so far, in seconds.
fn cpu_seconds(pid: u32) -> Result<f64> {
    /// What /proc counts in, on every Linux that Rust runs on.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's name is in brackets and may hold spaces; user and system time are fields 14 and 15.
    let (_, after) = stat.rsplit_once(')').context("no name")?;
    let fields: Vec<f64> =
        after.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(fields.iter().sum::<f64>() / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_between_looks_is_added_by_group() {
        let look = |databases, client| ProcessorTime(vec![("databases", databases), ("client", client)]);
        let mut used = ProcessorTime::default();
        used.add(&look(1.0, 2.0), &look(1.5, 2.25));
        used.add(&look(7.0, 3.0), &look(7.25, 3.0));
        assert_eq!(used.per_transaction(1_000), "1000 us (databases 750, client 250)");
    }
}
