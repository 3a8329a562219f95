//! Concord as real processes: a coordinator, participants and databases that can be killed, frozen, cut off
//! and started again, and the audit that follows.
//!
//! ```text
//!   test ──▶ World ──▶ Coordinator (test-coordinator)  ──▶ log file, data directory
//!              │  └──▶ Participant (test-participant)  ──▶ faults by its standard input
//!              └─────▶ Bank: accounts and ledger in one database of a concord_sandbox::Server
//! ```
//!
//! Everything waits by condition ([`until`]) and ends when it is dropped; a failing test prints the end of every
//! log.

mod agreeable;
mod audit;
mod bank;
mod control;
mod coordinator;
mod fault;
mod participant;
pub mod points;
mod process;
mod servers;
mod wait;
mod world;

pub use agreeable::Agreeable;
pub use audit::{Outcome, Transfer};
pub use bank::{Bank, Entry};
pub use coordinator::{Coordinator, CoordinatorOptions};
pub use fault::{Fault, Verb};
pub use participant::{Participant, ParticipantOptions};
pub use process::{Process, Programs};
pub use servers::{Pair, pair};
pub use wait::until;
pub use world::{Running, World, WorldOptions, actions, branch};

use tonic::Status;

/// The code and the stable reason of a failed call, for comparing in one go.
///
/// # Panics
/// When the call has succeeded.
pub fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (tonic::Code, String) {
    match answer {
        Ok(answer) => panic!("was not refused: {answer:?}"),
        Err(status) => {
            let reason = concord_proto::status::reason(&status);
            (status.code(), reason.unwrap_or_else(|| format!("no reason, only {:?}", status.message())))
        }
    }
}

/// The programs of this crate, for [`Programs`]: integration tests know where cargo has put them.
#[macro_export]
macro_rules! programs {
    () => {
        $crate::Programs {
            coordinator: env!("CARGO_BIN_EXE_test-coordinator"),
            participant: env!("CARGO_BIN_EXE_test-participant"),
        }
    };
}

/// Tests of scenarios (`async fn(Flavor) -> Result<()>`), each on MySQL and on MariaDB.
#[macro_export]
macro_rules! on_both {
    ($($scenario:ident),* $(,)?) => {
        mod mysql {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(concord_sandbox::Flavor::MySql).await.unwrap();
            })*
        }
        mod mariadb {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(concord_sandbox::Flavor::MariaDb).await.unwrap();
            })*
        }
    };
}
