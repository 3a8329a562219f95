//! The real engine in a simulated world: one seed, one run.
//!
//! What runs here is the coordinator's own engine (`concord_coordinator::engine`, with the protocol core, its timers,
//! retries, admission, records and recovery) on a simulated disk, with simulated participants on simulated databases
//! behind a simulated network. In a third of the seeds there are two coordinators on one simulated store, which take over
//! from each other; that store, and what is passed on from one to the other, are modelled on the real ones. Time is tokio's paused clock: it jumps to the next thing that is due. Every choice
//! follows from the seed, so that a run can be repeated, and made smaller.
//!
//! ```sh
//! cargo run --release --bin simulate -- --seeds 10000
//! cargo run --release --bin simulate -- --seed 4711        # one run, with its transcript
//! ```

pub mod campaign;
mod check;
mod coordinator;
pub mod database;
pub mod dice;
pub mod figures;
mod initiator;
mod life;
pub mod mutant;
mod nemesis;
pub mod network;
mod participant;
mod resource;
pub mod scenario;
pub mod shrink;
mod store;
mod sweeper;
mod transport;
mod world;

pub use mutant::{Found, hunt};
pub use world::{Options, Outcome, Violation, run};
