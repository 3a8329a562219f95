//! Transfers, and reads of all balances in one global transaction.

use concord_proto::v1::{BranchKind, Grade};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::{Branch, Part, Plan, Reading, Workload, edn};

/// One operation in so many reads. While it waits for one account, transfers wait for all those that it has locked.
const READ_EVERY: u32 = 100;

pub(super) fn draw(random: &mut StdRng, databases: usize, number: i64, mixed: bool) -> Plan {
    // With a transfer half-way between Try and Confirm, sums mean nothing.
    if !mixed && random.random_ratio(1, READ_EVERY) {
        return read(databases);
    }
    transfer(random, databases, number, mixed)
}

fn transfer(random: &mut StdRng, databases: usize, number: i64, mixed: bool) -> Plan {
    let accounts = Workload::Bank.opening().accounts;
    let amount = random.random_range(1..=60);
    let mut part = |names: [&str; 2], amount| {
        let name = if mixed && random.random() { names[1] } else { names[0] };
        let database = random.random_range(0..databases);
        Part(database, name.to_owned(), random.random_range(1..=accounts), amount)
    };
    let from = part(["debit", "hold"], amount);
    let mut parts = vec![from, part(["credit", "promise"], amount)];
    // Every sixth goes to two.
    if number % 6 == 0 && amount > 1 {
        parts[1].3 = amount / 2;
        parts.push(part(["credit", "promise"], amount - amount / 2));
    }
    Plan::moves(number, "transfer", parts)
}

fn read(databases: usize) -> Plan {
    let branch =
        |participant| Branch { participant, kind: BranchKind::Xa, action: "read", payload: Vec::new() };
    Plan {
        number: 0,
        f: "read",
        value: edn(&()),
        branches: (0..databases).map(branch).collect(),
        grade: Grade::Strict,
        reading: Reading::Sums,
        insists: false,
    }
}
