//! `concord tx resolve`: the one order that can make databases disagree, so it asks first.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, stderr, stdin};

use clap::{Args, ValueEnum};
use concord_proto::v1;

use super::super::client::Client;
use super::super::failure::Failure;
use super::super::view::{BranchRecord, TransactionRecord, harmless};
use super::{OrderArgs, fetch, show};

/// Arguments of `concord tx resolve`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Nothing is sent to the participant. First end the branch in its database by hand (XA COMMIT or XA ROLLBACK; its XID \
is shown by `concord resource in-doubt`), then declare here how it ended. What you declare against the decision is \
recorded as a heuristic outcome: the branches differ from then on.

A transaction of a single XA branch has no decision: its outcome is what the branch's database has done. A call that was \
lost may still arrive there, so declare such a branch rolled back only when its participant is stopped for good.

Example:
  concord tx resolve GTID --branch 2 --outcome committed --reason 'ticket 4711'")]
pub(in crate::cli) struct ResolveArgs {
    /// How it ended
    #[arg(long, value_enum)]
    outcome: Outcome,
    /// Which branch [default: every one that has not ended]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    branch: Option<u32>,
    /// Why, for the history
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    order: OrderArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Outcome {
    Committed,
    RolledBack,
}

impl Outcome {
    fn words(self) -> &'static str {
        match self {
            Outcome::Committed => "committed",
            Outcome::RolledBack => "rolled back",
        }
    }
}

pub(super) async fn run(args: ResolveArgs) -> Result<(), Failure> {
    let operator = args.order.operator()?;
    if !args.yes && !stdin().is_terminal() {
        return Err(Failure::usage("resolve asks for confirmation, and standard input is not a terminal")
            .with_hint("to go on without being asked: --yes"));
    }
    let client = Client::connect(&args.order.one.client).await?;
    if !args.yes {
        let transaction = TransactionRecord::from(fetch(&client, args.order.gtid()).await?);
        confirm(&question(&transaction, args.outcome, args.branch))?;
    }
    let outcome = match args.outcome {
        Outcome::Committed => v1::TransactionState::Committed,
        Outcome::RolledBack => v1::TransactionState::RolledBack,
    };
    let request = client.request(v1::ResolveRequest {
        gtid: args.order.gtid(),
        branch_id: args.branch.unwrap_or(0),
        outcome: outcome.into(),
        operator,
        reason: args.reason,
    });
    let answer = client.operator().resolve(request).await.map_err(|status| client.order_failure(&status))?;
    show(&client, answer.into_inner().transaction)
}

/// What the operator is about to declare, and what it means.
fn question(transaction: &TransactionRecord, outcome: Outcome, branch: Option<u32>) -> String {
    let named = |one: &BranchRecord| format!("{} (at {})", one.branch_id, harmless(&one.participant));
    let branches: Vec<_> = match branch {
        Some(number) => match transaction.branches.iter().find(|one| one.branch_id == number) {
            Some(one) => vec![named(one)],
            None => vec![number.to_string()],
        },
        None => transaction.unfinished().map(named).collect(),
    };
    let mut text = match branches.as_slice() {
        [] => "No branch is unfinished".to_owned(),
        [one] => format!("You declare branch {one}"),
        many => format!("You declare the branches {}", many.join(", ")),
    };
    let _ = write!(text, " of {} {}.", transaction.gtid, outcome.words());
    let decision = match transaction.state.as_str() {
        "committing" | "committed" => Outcome::Committed,
        "rolling_back" | "rolled_back" => Outcome::RolledBack,
        _ => {
            text.push_str("\nThe transaction has not been decided yet.");
            return text;
        }
    };
    if decision == outcome {
        let _ = write!(text, "\nThat is what was decided: {}.", decision.words());
    } else {
        let _ = write!(
            text,
            "\nThis is AGAINST THE DECISION, which was {}: the branches will differ, and Concord will not put it right.",
            decision.words()
        );
    }
    text
}

fn confirm(question: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    write!(stderr(), "{question}\nType yes to go on: ")?;
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(Failure::new("not confirmed; nothing was done")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(state: v1::TransactionState) -> TransactionRecord {
        let branch = |branch_id, state: v1::BranchState| v1::Branch {
            branch_id,
            state: state.into(),
            participant: format!("http://b{branch_id}"),
            ..Default::default()
        };
        TransactionRecord::from(v1::Transaction {
            gtid: "G".into(),
            state: state.into(),
            branches: vec![
                branch(1, v1::BranchState::Committed),
                branch(2, v1::BranchState::Parked),
                branch(3, v1::BranchState::Prepared),
            ],
            ..Default::default()
        })
    }

    #[test]
    fn the_question_says_what_is_at_stake() {
        let committing = transaction(v1::TransactionState::Committing);
        assert_eq!(
            question(&committing, Outcome::Committed, None),
            "You declare the branches 2 (at http://b2), 3 (at http://b3) of G committed.\nThat is what was decided: committed."
        );
        let against = question(&committing, Outcome::RolledBack, Some(2));
        assert!(
            against.starts_with(
                "You declare branch 2 (at http://b2) of G rolled back.\nThis is AGAINST THE DECISION, which was committed: "
            ),
            "{against}"
        );
        let active = question(&transaction(v1::TransactionState::Active), Outcome::Committed, None);
        assert!(active.ends_with("The transaction has not been decided yet."), "{active}");
    }
}
