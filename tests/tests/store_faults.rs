//! What the coordinator does when its store fails or is not what it should be, and how it stops.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod store_faults {
    mod damage;
    mod full_disk;
    mod opening;
    mod stopping;
    mod stub;
}
