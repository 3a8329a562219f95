//! Random input for everything that is decoded from outside: requests at the coordinator's and the participant's
//! door, stored records and rows, rows of `XA RECOVER`, gtids, configurations. Each test says what must hold
//! besides "no panic".
//!
//! `cargo test -p concord-fuzz` runs each for a second, on inputs that nobody has seen before. Longer, and with the
//! help of coverage: see `README.md`.

#![cfg(test)]

mod configuration;
mod coordinator_door;
mod damage;
mod gtids;
mod participant_door;
mod records;
mod rows;
mod xids;
