//! Dies by kill -9 at every crash point (`concord_crash_points`), in transactions of every kind, on real databases:
//! after each death everything is started again, ends, and ends well.
//!
//! Run it with `cargo test -p concord-tests --features crash-points --test crash_points`. With
//! `CONCORD_CRASH_SCENARIO=NAME` only that one is played, with `CONCORD_CRASH_CASE=TEXT` only cases in whose name the
//! text is, such as `"Two dies at xa/prepare/after"`. Then nothing is said about points that nobody came to.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod crash_points {
    mod attempt;
    mod case;
    mod matrix;
    mod scenario;
    mod script;
    mod stage;
}
