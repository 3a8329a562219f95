//! One configuration under the checker.

use std::time::{Duration, Instant};

use concord_protocol::{Decision, State, Transaction};
use stateright::{Checker as _, HasDiscoveries, Model as _, Property};

use crate::action::Action;
use crate::claim::Claim;
use crate::configuration::Configuration;
use crate::coordinator::Coordinator;
use crate::resolution::{Known, ends_well};
use crate::trace::Trace;
use crate::world::World;

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// Worlds that differ.
    pub states: usize,
    /// Steps taken: to a new world, or to a known one.
    pub steps: usize,
    /// The longest run.
    pub depth: usize,
    /// How long it took.
    pub elapsed: Duration,
    /// A run that breaks a claim.
    pub broken: Option<Trace>,
    /// What should have come to pass somewhere and did not: then the configuration proves little.
    pub missing: Vec<&'static str>,
}

/// Explores a configuration to its end, or until a claim is broken.
pub fn check(rules: Configuration, threads: usize) -> Report {
    let started = Instant::now();
    let checker = Model { rules: rules.clone(), known: Known::new() }
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let found = checker.discoveries();
    let broken = [CLAIMS, RESOLUTION]
        .into_iter()
        .find_map(|name| found.get(name))
        .map(|path| Trace::of(&rules, path.clone().into_actions()));
    // Of a run that was broken off nothing can be expected.
    let missing = |property: &Property<Model>| {
        broken.is_none()
            && property.expectation == stateright::Expectation::Sometimes
            && !found.contains_key(property.name)
    };
    let missing = checker.model().properties().into_iter().filter(missing).map(|property| property.name);
    Report {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        elapsed: started.elapsed(),
        missing: missing.collect(),
        broken,
    }
}

const CLAIMS: &str = "no claim is broken";
const RESOLUTION: &str = "without further faults, everything ends well";

struct Model {
    rules: Configuration,
    known: Known,
}

impl stateright::Model for Model {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.rules)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        Action::all(world, &self.rules, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.apply(action, &self.rules);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(CLAIMS, |_, world: &World| world.broken.is_none()),
            Property::always(RESOLUTION, |model: &Model, world: &World| {
                ends_well(world, &model.rules, &model.known)
            }),
            Property::sometimes("committed on every branch", |_, world: &World| {
                world.state() == Some(State::Committed) && world.told == Some(Decision::Commit)
            }),
            Property::sometimes("rolled back", |_, world: &World| {
                world.state() == Some(State::RolledBack) && world.told == Some(Decision::Rollback)
            }),
        ];
        if self.rules.faults.crashes > 0 {
            properties.push(Property::sometimes(
                "a commit delivered after a crash",
                |model, world: &World| {
                    world.left.crashes < model.rules.faults.crashes
                        && world.state() == Some(State::Committed)
                        && world.told == Some(Decision::Commit)
                },
            ));
        }
        if self.rules.faults.take_overs > 0 {
            properties.extend([
                Property::sometimes(
                    "a commit delivered after a take-over",
                    |model: &Model, world: &World| {
                        world.left.take_overs < model.rules.faults.take_overs
                            && world.state() == Some(State::Committed)
                            && world.told == Some(Decision::Commit)
                    },
                ),
                Property::sometimes("a commit by one that was taken over", |_: &Model, world: &World| {
                    let late = world.late.as_ref().and_then(Coordinator::decision);
                    late == Some(Decision::Commit)
                        || world.told == Some(Decision::Commit) && world.owner.decision().is_none()
                }),
            ]);
        }
        properties
    }
}

impl World {
    fn state(&self) -> Option<State> {
        self.owner.transaction.as_ref().map(Transaction::state)
    }
}

impl Report {
    /// Whether every claim held, and enough happened for that to mean something.
    pub fn is_good(&self) -> bool {
        self.broken.is_none() && self.missing.is_empty()
    }

    /// The claim that was broken.
    pub fn claim(&self) -> Option<Claim> {
        self.broken.as_ref().map(Trace::claim)
    }
}
