//! Programs contain crash points only where they were asked for.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use concord_crash_points::is_known;

/// Some of the coordinator's, of the XA driver's and of the barrier's.
const SOME: [&str; 4] =
    ["coordinator/epoch/before", "coordinator/recovery/resume", "xa/prepare/before", "tcc/try/row"];

#[test]
fn crash_points_are_where_they_were_asked_for() {
    assert!(SOME.iter().all(|name| is_known(name)));
    for program in [env!("CARGO_BIN_EXE_test-coordinator"), env!("CARGO_BIN_EXE_test-participant")] {
        let bytes = std::fs::read(program).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let found = SOME.iter().filter(|name| text.contains(**name)).count();
        assert_eq!(
            found > 0,
            cfg!(feature = "crash-points"),
            "{program} has {found} of the points looked for"
        );
    }
}
