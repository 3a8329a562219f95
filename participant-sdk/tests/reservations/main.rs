//! Reservations on a real MySQL and a real MariaDB.

// Helpers are tests too, which clippy's allow-unwrap-in-tests does not see.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod auditing;
mod behind_barrier;
mod buckets;
mod crowd;
mod ending;
mod expiry;
mod goods;
mod model;
mod reserving;
mod schema;
mod support;
mod through_sqlx;
