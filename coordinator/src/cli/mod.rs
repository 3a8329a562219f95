//! The command line. Each command is a file: its arguments, and what it calls. What is shown is in [`view`].

mod client;
mod configuration;
mod doctor;
mod drain;
mod failure;
mod manual;
mod progress;
mod resource;
mod screen;
mod serve;
mod store;
mod time;
mod token;
mod transaction;
mod view;

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;

use client::ClientArgs;
use failure::Failure;

/// Distributed transactions that commit everywhere or nowhere.
#[derive(Debug, Parser)]
#[command(
    name = "concord",
    version,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = "\
Examples:
  concord serve               a coordinator with no configuration, on port 7600
  concord tx list --parked    what waits for an operator
  concord tx get GTID         one transaction, with its history

With --json an error of a command is one line of JSON on standard error: {\"error\": {\"message\", \"hint\", \"reason\", \
\"code\"}}, where reason and code are what the coordinator answered, or null. Bad usage is always told as text.

Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 the store failed, 4 not found.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the coordinator
    Serve(serve::ServeArgs),
    /// Look at transactions, and give orders about them
    #[command(subcommand, visible_alias = "transaction")]
    Tx(transaction::TransactionCommand),
    /// Look at the databases that the coordinator reaches itself
    #[command(subcommand)]
    Resource(resource::ResourceCommand),
    /// Check, copy or export what a coordinator has on record, without asking it
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Check what a coordinator needs, and say how to mend what is not as it should be
    Doctor(doctor::DoctorArgs),
    /// Show who the coordinator is, how busy it is, and what its log has cost
    Status(ClientArgs),
    /// Stop a coordinator once its transactions have ended, or leave them to others
    Drain(drain::DrainArgs),
    /// Show, check or begin a configuration
    #[command(subcommand)]
    Config(configuration::ConfigCommand),
    /// Make tokens for those who may call
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  concord completions bash > ~/.local/share/bash-completion/completions/concord"
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write one for each command to a directory
    #[command(after_help = "Examples:\n  concord man | man -l -\n  concord man /usr/local/share/man/man1")]
    Man {
        /// The directory; made if it is not there
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}

/// Runs the command that the process's arguments name.
pub(crate) fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let json = wants_json(&matches);
    let result = match Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).command {
        Command::Serve(args) => serve::run(&args),
        Command::Tx(command) => blocking(transaction::run(command)),
        Command::Resource(command) => blocking(resource::run(command)),
        Command::Store(command) => store::run(command),
        Command::Doctor(args) => blocking(doctor::run(args)),
        Command::Status(args) => blocking(client::status(args)),
        Command::Drain(args) => blocking(drain::run(args)),
        Command::Config(command) => configuration::run(command),
        Command::Token(command) => token::run(command),
        Command::Completions { shell } => completions(shell),
        Command::Man { directory } => man(directory.as_deref()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}

/// Whether the command's result, and so its failure, is for programs.
fn wants_json(matches: &ArgMatches) -> bool {
    let mut innermost = matches;
    while let Some((_, below)) = innermost.subcommand() {
        innermost = below;
    }
    // Not every command has that argument.
    innermost.try_get_one("json").ok().flatten().copied().unwrap_or(false)
}

/// Runs a client command to its end.
fn blocking(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command)
}

fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "concord", &mut script);
    io::Write::write_all(&mut io::stdout(), &script)?;
    Ok(())
}

fn man(directory: Option<&Path>) -> Result<(), Failure> {
    match directory {
        Some(directory) => {
            std::fs::create_dir_all(directory)?;
            let mut command = Cli::command().disable_help_subcommand(true);
            // So that each command knows its whole name.
            command.build();
            manual::pages(command, directory)?;
        }
        None => io::Write::write_all(&mut io::stdout(), &manual::page(Cli::command())?)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_argument_explains_itself() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in
                command.get_arguments().filter(|a| a.get_id() != "help" && a.get_id() != "version")
            {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    /// What people read and type in: every page of docs/, the README, the alerts.
    fn pages() -> Vec<(String, String)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let docs = root.join("docs");
        let listed = |directory: &Path| -> Vec<PathBuf> {
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
        };
        let mut paths = [listed(&docs), listed(&docs.join("metrics"))].concat();
        paths.extend([root.join("README.md"), root.join("deploy/compose/README.md")]);
        paths.retain(|path| path.extension().is_some_and(|kind| kind == "md" || kind == "yml"));
        let read = |path: PathBuf| (path.display().to_string(), std::fs::read_to_string(path).unwrap());
        paths.into_iter().map(read).collect()
    }

    /// The arguments of each call of `concord` in a line of a shell.
    fn calls(line: &str) -> Vec<Vec<String>> {
        // What a shell would put in place of `$(…)` is one word.
        let mut flat = String::new();
        let mut depth = 0;
        for (position, character) in line.char_indices() {
            match character {
                '$' if line[position + 1..].starts_with('(') => flat.push('X'),
                '(' if depth > 0 || line[..position].ends_with('$') => depth += 1,
                ')' if depth > 0 => depth -= 1,
                _ if depth == 0 => flat.push(character),
                _ => {}
            }
        }
        let words = shlex::split(&flat).unwrap_or_else(|| panic!("no line of a shell: {line}"));
        let ends = |word: &str| ["|", ">", ">>", "<", "&&", "||", "&", ";", "--"].contains(&word);
        let begins = |position: usize| position == 0 || ends(&words[position - 1]);
        let here = |position: &usize| words[*position] == "concord" && begins(*position);
        let rest = |position: usize| words[position + 1..].iter().take_while(|word| !ends(word)).cloned();
        (0..words.len()).filter(here).map(|position| rest(position).collect()).collect()
    }

    /// Commands in blocks of code, which must be whole, and those within sentences, which may leave out arguments.
    fn commands(page: &str) -> Vec<(Vec<String>, bool)> {
        let mut found = Vec::new();
        for (number, part) in page.split("```").enumerate() {
            let block = part.strip_prefix("sh\n").filter(|_| number % 2 == 1);
            let lines = block.map(|block| block.replace("\\\n", " "));
            // Others may be a part of something that is quoted over several lines.
            let lines = lines.iter().flat_map(|block| block.lines()).filter(|line| line.contains("concord "));
            for line in lines {
                found.extend(calls(line).into_iter().map(|call| (call, true)));
            }
            if number % 2 == 0 {
                let quoted = part.split('`').skip(1).step_by(2).map(|text| text.replace('\n', " "));
                let quoted = quoted.filter(|text| text.starts_with("concord ") && !text.contains('…'));
                found.extend(quoted.flat_map(|text| calls(&text)).map(|call| (call, false)));
            }
        }
        found
    }

    #[test]
    fn commands_are_found() {
        let page = "Ask `concord tx\nget`, `x` or `concord …`.\n```sh\nconcord a \"b c\" $(date +%F).x | grep concord # d\n\
                    k exec p -- concord e \\\n  --f && concord g\ncargo run --bin concord -- serve\n```\n```toml\nconcord = 1\n```\n";
        let expected = [
            (vec!["tx", "get"], false),
            (vec!["a", "b c", "X.x"], true),
            (vec!["e", "--f"], true),
            (vec!["g"], true),
        ];
        let expected = expected.map(|(call, whole)| (call.into_iter().map(str::to_owned).collect(), whole));
        assert_eq!(commands(page), expected);
    }

    #[test]
    fn the_docs_name_commands_that_there_are() {
        use clap::error::ErrorKind::{
            DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion, MissingRequiredArgument,
            MissingSubcommand,
        };
        // An example; any would do.
        let gtid = "0192f6a0-8c00-8000-8000-040000000001";
        let mut seen = 0;
        for (page, text) in pages() {
            for (call, whole) in commands(&text) {
                let call: Vec<_> = call.iter().map(|word| word.replace("GTID", gtid)).collect();
                let words = ["concord"].into_iter().chain(call.iter().map(String::as_str));
                seen += 1;
                match Cli::command().try_get_matches_from(words).map_err(|error| error.kind()) {
                    Ok(_) | Err(DisplayHelp | DisplayVersion) => {}
                    Err(
                        MissingRequiredArgument
                        | MissingSubcommand
                        | DisplayHelpOnMissingArgumentOrSubcommand,
                    ) if !whole => {}
                    Err(kind) => panic!("{page}: concord {}: {kind:?}", call.join(" ")),
                }
            }
        }
        assert!(seen > 50, "{seen}");
    }
}
