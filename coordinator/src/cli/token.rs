//! `concord token`: bearer tokens for callers.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use concord_coordinator::security::{NewToken, Role, new_token};

use super::failure::Failure;
use super::view::print;

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token, and print its entry for the file of tokens (security.tokens)
    #[command(after_help = "\
The token itself goes to standard error, and is kept nowhere: give it to whoever is to call, who sends it as \
`authorization: Bearer TOKEN`. The entry, which holds no more than its hash, goes to standard output.

Examples:
  concord token new ann --role operator >> /etc/concord/tokens.toml
  concord token new stock --role participant --participant attached://stock >> /etc/concord/tokens.toml")]
    New(NewArgs),
}

#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// Whose token it is, for the record
    name: String,
    /// What its owner may do; may be repeated
    #[arg(long, value_name = "ROLE", required = true, value_parser = PossibleValuesParser::new(Role::ALL.map(Role::name)))]
    role: Vec<String>,
    /// The participants that its owner may attach and join as (role participant), and have called (role initiator), as in
    /// participants.allow; may be repeated [default: any]
    #[arg(long, value_name = "PATTERN")]
    participant: Vec<String>,
    /// The only tenant whose transactions its owner has to do with [default: all of them]
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
}

pub(super) fn run(command: TokenCommand) -> Result<(), Failure> {
    let TokenCommand::New(NewArgs { name, role, participant, tenant }) = command;
    let roles: Vec<Role> = role.iter().filter_map(|name| Role::of_name(name)).collect();
    let participants = (!participant.is_empty()).then_some(participant);
    let NewToken { token, entry } =
        new_token(&name, &roles, participants, tenant).map_err(|error| Failure::usage(error.to_string()))?;
    print(&entry)?;
    eprintln!("{token}");
    Ok(())
}
