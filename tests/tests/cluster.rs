//! Coordinators that share a store, on each kind of database: any of them answers, and whoever dies, sleeps or is cut off
//! is taken over from, with nothing lost and nothing done twice.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod cluster {
    mod handing_over;
    mod routing;
    mod support;
    mod sweeping;
    mod take_over;
}
