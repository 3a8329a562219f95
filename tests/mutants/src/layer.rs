//! The layers of tests, the cheapest first.

use clap::ValueEnum;
use concord_seeded_bugs::Home;
use serde::Serialize;

/// A layer of tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Layer {
    /// Transcripts and properties of the protocol core
    Protocol,
    /// The engine and the store by themselves
    Engine,
    /// Every order of events around the protocol core
    Model,
    /// The engine in a simulated world
    Simulation,
    /// The XA driver's rules on real databases
    Xa,
    /// The participant on real databases
    Participant,
    /// Real processes on real databases
    Processes,
}

/// One program of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    pub(crate) package: &'static str,
    /// The name of its target; a package's own unit tests have the package's.
    pub(crate) target: &'static str,
    pub(crate) is_test: bool,
    pub(crate) arguments: &'static [&'static str],
}

const fn test(package: &'static str, target: &'static str) -> Program {
    Program { package, target, is_test: true, arguments: &[] }
}

const fn binary(package: &'static str, target: &'static str, arguments: &'static [&'static str]) -> Program {
    Program { package, target, is_test: false, arguments }
}

impl Layer {
    pub(crate) const ALL: [Layer; 7] = [
        Layer::Protocol,
        Layer::Engine,
        Layer::Model,
        Layer::Simulation,
        Layer::Xa,
        Layer::Participant,
        Layer::Processes,
    ];

    /// What it runs.
    pub(crate) fn programs(self) -> &'static [Program] {
        const PROTOCOL: &[Program] =
            &[test("concord-protocol", "transcripts"), test("concord-protocol", "properties")];
        const ENGINE: &[Program] = &[test("concord-coordinator", "concord_coordinator")];
        const MODEL: &[Program] = &[binary("concord-model", "model", &["--small"])];
        const SIMULATION: &[Program] = &[binary("concord-simulation", "simulate", &["--seeds", "1000"])];
        const XA: &[Program] = &[test("concord-xa", "rules")];
        const PARTICIPANT: &[Program] =
            &[test("concord-participant", "participant"), test("concord-participant", "reservations")];
        const PROCESSES: &[Program] = &[test("concord-tests", "sweeper"), test("concord-tests", "faults")];
        match self {
            Layer::Protocol => PROTOCOL,
            Layer::Engine => ENGINE,
            Layer::Model => MODEL,
            Layer::Simulation => SIMULATION,
            Layer::Xa => XA,
            Layer::Participant => PARTICIPANT,
            Layer::Processes => PROCESSES,
        }
    }

    /// Whether code of this home runs in it.
    pub(crate) fn contains(self, home: Home) -> bool {
        match self {
            Layer::Protocol | Layer::Model => home == Home::Protocol,
            Layer::Engine => matches!(home, Home::Protocol | Home::Engine | Home::Store),
            Layer::Simulation => matches!(home, Home::Protocol | Home::Engine | Home::Sweeper),
            Layer::Xa => home == Home::Xa,
            Layer::Participant => matches!(home, Home::Xa | Home::Participant | Home::Barrier),
            Layer::Processes => true,
        }
    }
}
