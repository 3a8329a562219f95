//! A file of variables, as systemd's `EnvironmentFile=` reads it: for those who run a command with what a service has.

use std::iter::Peekable;
use std::path::Path;
use std::str::Chars;
use std::sync::Arc;

use super::error::{ConfigError, Problem};
use super::load::Origin;

/// Reads the variables of a file, in its order; a name that comes twice is there twice, and the last one counts. Lines are
/// `NAME=value`; empty ones, and those that begin with `#` or `;`, say nothing. A value may stand in quotes of either kind,
/// several after each other; in double quotes `\"`, `\\`, `\$` and `` \` `` stand for the second character, in single quotes
/// nothing is special, and without quotes a backslash takes the next character as it is. Blanks around a value without quotes are
/// no part of it, and a backslash at the end of a line joins the next one to it.
///
/// # Errors
/// The file cannot be read, or a line of it is of another form. No error has a value in it: it may be a password.
pub fn environment_file(path: &Path) -> Result<Vec<(String, String)>, ConfigError> {
    let name: Arc<str> = Arc::from(path.display().to_string());
    let refused = |line, what: String| {
        let origin = Origin::File { name: Arc::clone(&name), line };
        ConfigError::new(vec![Problem { origin, what }])
    };
    let text =
        std::fs::read_to_string(path).map_err(|error| refused(0, format!("cannot be read: {error}")))?;
    read(&text).map_err(|(line, what)| refused(line, what.to_owned()))
}

/// What is wrong, and in which line.
type Wrong = (usize, &'static str);

fn read(text: &str) -> Result<Vec<(String, String)>, Wrong> {
    let mut rest = Reader { characters: text.chars().peekable(), line: 1 };
    let mut variables = Vec::new();
    while let Some(first) = rest.peek() {
        match first {
            '#' | ';' => while !matches!(rest.next(), None | Some('\n')) {},
            blank if blank.is_whitespace() => drop(rest.next()),
            _ => variables.push(variable(&mut rest)?),
        }
    }
    Ok(variables)
}

/// The characters that are left, with their line.
struct Reader<'t> {
    characters: Peekable<Chars<'t>>,
    line: usize,
}

impl Reader<'_> {
    fn peek(&mut self) -> Option<char> {
        self.characters.peek().copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.characters.next();
        self.line += usize::from(next == Some('\n'));
        next
    }
}

fn variable(rest: &mut Reader<'_>) -> Result<(String, String), Wrong> {
    let line = rest.line;
    let mut name = String::new();
    loop {
        match rest.next() {
            Some('=') => break,
            Some('\n') | None => return Err((line, "must be NAME=value, or begin with #")),
            Some(character) => name.push(character),
        }
    }
    let name = name.trim_end();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(plain) {
        return Err((
            line,
            "must be NAME=value, with a name of letters, digits and _ (and without `export`)",
        ));
    }
    Ok((name.to_owned(), value(rest)?))
}

fn value(rest: &mut Reader<'_>) -> Result<String, Wrong> {
    let mut value = String::new();
    loop {
        match rest.peek() {
            None | Some('\n') => return Ok(value),
            Some(quote @ ('"' | '\'')) => {
                rest.next();
                quoted(quote, rest, &mut value)?;
            }
            Some(blank) if blank.is_whitespace() => drop(rest.next()),
            Some(_) => {
                plain(rest, &mut value);
                return Ok(value);
            }
        }
    }
}

/// Up to the end of the line.
fn plain(rest: &mut Reader<'_>, value: &mut String) {
    // Blanks that a backslash has taken as they are stay.
    let mut end = value.len();
    while let Some(character) = rest.next().filter(|character| *character != '\n') {
        match character {
            '\\' => {
                value.extend(rest.next().filter(|next| *next != '\n'));
                end = value.len();
            }
            character => {
                value.push(character);
                end = if character.is_whitespace() { end } else { value.len() };
            }
        }
    }
    value.truncate(end);
}

/// Up to the quote that closes.
fn quoted(quote: char, rest: &mut Reader<'_>, value: &mut String) -> Result<(), Wrong> {
    let line = rest.line;
    loop {
        match rest.next() {
            None => return Err((line, "a quote is opened here and never closed")),
            Some(end) if end == quote => return Ok(()),
            Some('\\') if quote == '"' => match rest.next() {
                Some('\n') | None => {}
                Some(special @ ('"' | '\\' | '$' | '`')) => value.push(special),
                Some(other) => value.extend(['\\', other]),
            },
            Some(character) => value.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_systemd_reads_it() {
        let text = r#"
# a comment
  ; another
PLAIN=mysql://u:p#'"w@h/d
 BLANKS =  a b\t

DOUBLE="a \"b\" \$c \d '" 'and # more'
SINGLE='a\"b'
ESCAPED=a\ \\b\
c
EMPTY=
LINES="one
two"
TWICE=1
TWICE=2"#
            .replace("\\t", "\t");
        let expected = [
            ("PLAIN", r#"mysql://u:p#'"w@h/d"#),
            ("BLANKS", "a b"),
            ("DOUBLE", r#"a "b" $c \d 'and # more"#),
            ("SINGLE", r#"a\"b"#),
            ("ESCAPED", r"a \bc"),
            ("EMPTY", ""),
            ("LINES", "one\ntwo"),
            ("TWICE", "1"),
            ("TWICE", "2"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(read(&text).unwrap(), expected);
    }

    #[test]
    fn what_is_no_variable_is_refused_with_its_line_and_without_its_value() {
        for (text, line) in
            [("A=1\n\ns3cret\n", 3), ("export A=s3cret", 1), ("A='1\n2'\nB=\"s3cret", 3), ("=s3cret", 1)]
        {
            let (found, what) = read(text).unwrap_err();
            assert_eq!(found, line, "{text}");
            assert!(!what.contains("s3cret"), "{what}");
        }
    }
}
