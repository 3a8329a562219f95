//! A panic in one task ends the whole coordinator.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

/// Set in the process that panics.
const PANICS: &str = "TEST_PANICS";
const SIGABRT: i32 = 6;

#[test]
fn a_panic_in_a_task_ends_the_process() {
    if std::env::var_os(PANICS).is_some() {
        concord_coordinator::serve::end_on_panic();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        // Nobody looks what becomes of the task.
        runtime.block_on(async {
            tokio::spawn(async { panic!("a bug") });
            std::future::pending::<()>().await;
        });
    }
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "a_panic_in_a_task_ends_the_process", "--nocapture"]).env(PANICS, "1");
    let status = again.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.signal(), Some(SIGABRT));
}
