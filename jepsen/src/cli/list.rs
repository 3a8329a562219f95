//! `jepsen list`.

use std::fmt::Write as _;

use clap::ValueEnum;
use jepsen::nemesis::Kind;
use jepsen::verdict::CLAIMS;
use jepsen::workload::Workload;

/// What there is.
pub(crate) fn text() -> String {
    let mut text = String::from("workloads\n");
    describe(&mut text, &Workload::ALL);
    text.push_str("\nnemeses\n");
    describe(&mut text, &Kind::ALL);
    text.push_str("\nclaims\n");
    for (id, title, statement) in CLAIMS {
        let _ = writeln!(text, "  {id} {title:<13} {statement}");
    }
    text.push_str(
        "\nanomalies of isolation (workload append)\n  G0, G1a, G1b, G1c, G-single, G2, internal, duplicate, phantom, \
         incompatible-order, lost-append\n",
    );
    text
}

fn describe<T: ValueEnum>(text: &mut String, all: &[T]) {
    for one in all.iter().filter_map(ValueEnum::to_possible_value) {
        let help = one.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(text, "  {:<22} {help}", one.get_name());
    }
}
