//! Every rule of docs/xa.md, against a real MySQL and a real MariaDB.

// Helpers are tests too, which clippy's allow-unwrap-in-tests does not see.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lost;
mod phase_two;
mod proxy;
mod recovery;
mod servers;
mod support;
mod voting;
