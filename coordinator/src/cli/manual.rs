//! Manual pages, whose examples are as they are in the help texts: line by line.

use std::io;
use std::path::Path;

use clap::Command;
use clap::builder::Resettable;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

/// Writes a page for a command and for each below it. All of it must have been built.
pub(super) fn pages(command: Command, directory: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        pages(below.clone(), directory)?;
    }
    let path = directory.join(Man::new(command.clone()).get_filename());
    std::fs::write(path, page(command)?)
}

/// The page of a command.
pub(super) fn page(command: Command) -> io::Result<Vec<u8>> {
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut page = Vec::new();
    // clap_mangen would fill its lines, as if all of it were prose.
    Man::new(command.after_help(Resettable::Reset)).render(&mut page)?;
    let is_example = |part: &&str| part.starts_with("Example");
    let (examples, notes): (Vec<_>, Vec<_>) =
        after.split("\n\n").filter(|part| !part.is_empty()).partition(is_example);
    let mut roff = Roff::default();
    if !notes.is_empty() {
        roff.control("SH", ["NOTES"]);
    }
    for note in notes {
        roff.control("PP", []);
        roff.text([roman(note)]);
    }
    if !examples.is_empty() {
        roff.control("SH", ["EXAMPLES"]);
    }
    for example in examples {
        let lines = example.lines().filter(|line| !["Example:", "Examples:"].contains(line));
        roff.control("nf", []);
        for line in lines {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }
    roff.to_writer(&mut page)?;
    Ok(page)
}
