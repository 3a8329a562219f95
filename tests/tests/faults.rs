//! What goes wrong around a transfer between two banks, on both databases: after each fault everything ends, the
//! same way everywhere, and no money is made or lost.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod faults {
    mod answers;
    mod chaos;
    mod databases;
    mod overtaking;
    mod processes;
    mod support;
    mod tcc;
}
