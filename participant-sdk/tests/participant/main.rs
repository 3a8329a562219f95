//! The participant SDK over real gRPC, against a real MySQL and a real MariaDB, with a scripted coordinator.

// Helpers are tests too, which clippy's allow-unwrap-in-tests does not see.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ending;
mod joining;
mod local;
mod recovering;
mod support;
mod tcc;
mod traces;
mod voting;
