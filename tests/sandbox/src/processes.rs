//! The processes of a PostgreSQL server: the postmaster, which is our child, and its children. Each of them leads a
//! session and a process group of its own, so that no signal reaches all of them.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How long all of them may take to stop or to end, one of them in a long write at worst.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
const POLL_EVERY: Duration = Duration::from_millis(1);

/// A line of the system's table of processes.
struct Row {
    pid: u32,
    parent: u32,
    /// As `ps` writes it: `T` stopped, `Z` ended and not yet waited for.
    state: char,
}

/// Stops the postmaster and then its children (SIGSTOP), and returns when all stand still; false if that takes too
/// long, or the postmaster has ended. The order matters: a stopped postmaster makes no new ones.
pub(crate) fn freeze(postmaster: u32) -> bool {
    signal(postmaster, Signal::STOP);
    let stopped = |rows: &[Row]| rows.iter().any(|row| row.pid == postmaster && row.state == 'T');
    settled(stopped)
        && settled(|rows| {
            let moving =
                rows.iter().filter(|row| row.parent == postmaster && !matches!(row.state, 'T' | 'Z'));
            moving.map(|row| signal(row.pid, Signal::STOP)).count() == 0
        })
}

/// Lets all of them go on (SIGCONT).
pub(crate) fn thaw(postmaster: u32) {
    for row in table().iter().filter(|row| row.parent == postmaster) {
        signal(row.pid, Signal::CONT);
    }
    signal(postmaster, Signal::CONT);
}

/// Kills all of them at once with SIGKILL: no child gets to write anything because its postmaster is gone. The
/// postmaster is left for its parent to wait for.
pub(crate) fn kill_all(postmaster: u32) {
    freeze(postmaster);
    // While their parent cannot wait for them, they keep their numbers, so that nobody else is hit.
    settled(|rows| {
        let alive = rows.iter().filter(|row| row.parent == postmaster && row.state != 'Z');
        alive.map(|row| signal(row.pid, Signal::KILL)).count() == 0
    });
    signal(postmaster, Signal::KILL);
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // A process that is gone is no error.
        kill_process(pid, signal).ok();
    }
}

fn settled(mut done: impl FnMut(&[Row]) -> bool) -> bool {
    let started = Instant::now();
    while !done(&table()) {
        if started.elapsed() > SETTLED_WITHIN {
            return false;
        }
        thread::sleep(POLL_EVERY);
    }
    true
}

fn table() -> Vec<Row> {
    if Path::new("/proc/self/stat").exists() {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let stats = entries.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
        return stats.filter_map(|text| row_of_stat(&text)).collect();
    }
    // macOS has no /proc.
    let listing = Command::new("ps").args(["-A", "-o", "pid=,ppid=,state="]).output();
    let text = listing.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().filter_map(row_of_ps).collect()
}

/// proc_pid_stat(5): `pid (name) state parent …`, where the name may hold anything.
fn row_of_stat(text: &str) -> Option<Row> {
    let (pid, rest) = text.split_once(" (")?;
    let mut words = rest.get(rest.rfind(')')? + 1..)?.split_whitespace();
    let state = words.next()?.chars().next()?;
    Some(Row { pid: pid.parse().ok()?, parent: words.next()?.parse().ok()?, state })
}

fn row_of_ps(line: &str) -> Option<Row> {
    let mut words = line.split_whitespace();
    let (pid, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(Row { pid, parent, state: words.next()?.chars().next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_whatever_a_process_is_called() {
        let row = row_of_stat("12 (a) b (c) T 34 12 12 0 -1").unwrap();
        assert_eq!((row.pid, row.parent, row.state), (12, 34, 'T'));
        let row = row_of_ps("  12    34 Ss+").unwrap();
        assert_eq!((row.pid, row.parent, row.state), (12, 34, 'S'));
        assert!(row_of_stat("").is_none() && row_of_ps("").is_none());
    }

    #[test]
    fn this_process_is_in_the_table_with_its_parent() {
        let parent = std::os::unix::process::parent_id();
        assert!(table().iter().any(|row| row.pid == std::process::id() && row.parent == parent));
    }
}
