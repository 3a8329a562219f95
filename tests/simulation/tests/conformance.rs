//! The simulated database against real MySQL and MariaDB: the same statements, over three sessions that lose their
//! connections, are killed, wait for each other and deadlock, and a server that is killed. Every answer, every wait,
//! every row and what `XA RECOVER` lists must be the same; what differs is made smaller and told. There are cases of two
//! kinds, as many of each: of everything, and of sessions that meet at a few rows.
//!
//! ```sh
//! CONCORD_CONFORMANCE_CASES=3000 CONCORD_CONFORMANCE_SEED=7 cargo test -p concord-simulation --test conformance
//! ```
//!
//! Not compared: what a plain read inside a branch sees (REPEATABLE READ's snapshot is not simulated); who is
//! a deadlock's victim, and who goes first when a row is gone for which several waited (the real server's choice is
//! followed); whether the rollback of a prepared branch survives the kill of a server (the same); whether two inserts of
//! one row, having waited for a third's rollback, deadlock (the same).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod conformance {
    pub(crate) mod pair;
    pub(crate) mod real;
    pub(crate) mod sql;
    pub(crate) mod step;
}

use std::cell::RefCell;

use concord_sandbox::{Flavor, Server, ServerOptions};
use conformance::pair::Pair;
use conformance::real::Real;
use conformance::step;
use proptest::strategy::Strategy as _;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

/// Cases of each kind for each server, unless the environment says otherwise.
const CASES: u32 = 25;

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

fn conforms(flavor: Flavor) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(Server::start(ServerOptions::new(flavor))).expect("a database server");
    let real = runtime.block_on(Real::new(server));
    let real = RefCell::new(real);
    for cases in [step::sequence().boxed(), step::contention().boxed()] {
        let config = Config {
            cases: number("CONCORD_CONFORMANCE_CASES", CASES),
            rng_seed: RngSeed::Fixed(number("CONCORD_CONFORMANCE_SEED", 1).into()),
            max_shrink_iters: 400,
            failure_persistence: None,
            ..Config::default()
        };
        let outcome = TestRunner::new(config).run(&cases, |steps| {
            let mut real = real.borrow_mut();
            runtime.block_on(async {
                let mut pair = Pair::new(flavor, &mut real).await;
                pair.run(&steps).await.map_err(|difference| TestCaseError::fail(pair.tell(&difference)))
            })
        });
        if let Err(difference) = outcome {
            panic!("{flavor:?} differs from its simulation: {difference}");
        }
    }
}

#[test]
fn mysql() {
    conforms(Flavor::MySql);
}

#[test]
fn mariadb() {
    conforms(Flavor::MariaDb);
}
