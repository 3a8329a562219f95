//! Statements as text, with parameters written into them.
//!
//! XA verbs exist in the text protocol only (docs/xa.md rule 2), and only text statements can share a round
//! trip with them.

use std::fmt::Write as _;

use mysql_async::{Params, Value};

use crate::{error::XaError, xid::push_hex};

/// Writes `params` for the question marks in `sql`, the same in every sql_mode: for statements that share a
/// round trip, which only text can.
///
/// # Errors
/// [`XaError::Statement`] when the text or the parameters cannot be used.
pub fn inline(sql: &str, params: Params) -> Result<String, XaError> {
    Statement::new(sql, params).map(|statement| statement.text)
}

/// One statement, checked and ready to send.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) text: String,
    /// A SELECT that takes no lock and stores nothing, judging by its text.
    pub(crate) plain_select: bool,
    /// Leaves nothing behind in the session, judging by its text: the session may be used again.
    pub(crate) leaves_session_clean: bool,
    /// May give more than one result, so that results cannot be told apart in a batch.
    pub(crate) many_results: bool,
}

impl Statement {
    /// Writes `params` for the question marks in `sql`.
    ///
    /// Refuses more than one statement, a count of parameters that does not fit, XA verbs, and backslashes
    /// inside quotes: what those mean depends on the session's sql_mode, so they belong into a parameter.
    pub(crate) fn new(sql: &str, params: Params) -> Result<Self, XaError> {
        let values = match params {
            Params::Empty => Vec::new(),
            Params::Positional(values) => values,
            Params::Named(_) => return Err(misuse("named parameters are not supported: use ?", sql)),
        };
        let mut text = String::with_capacity(sql.len() + values.len() * 8);
        let mut values = values.into_iter();
        let mut scan = Scan { sql, at: 0 };
        let mut mentions_variable = false;
        let mut ended = false;
        while let Some(piece) = scan.next_piece()? {
            match piece {
                Piece::Comment => text.push(' '),
                Piece::Semicolon => ended = true,
                Piece::Placeholder | Piece::Quoted(_) | Piece::Plain(_) if ended && !piece.is_blank() => {
                    return Err(misuse("one statement at a time", sql));
                }
                Piece::Placeholder => match values.next() {
                    Some(value) => push_literal(&mut text, &value),
                    None => return Err(misuse("more question marks than parameters", sql)),
                },
                Piece::Quoted(quoted) => text.push_str(quoted),
                Piece::Plain(plain) => {
                    mentions_variable |= plain.contains('@');
                    text.push_str(plain);
                }
            }
        }
        if values.next().is_some() {
            return Err(misuse("more parameters than question marks", sql));
        }
        text.truncate(text.trim_end().len());
        let keyword = first_keyword(&text);
        if keyword.is_empty() {
            return Err(misuse("empty statement", sql));
        }
        if keyword == "XA" {
            return Err(misuse("the branch runs the XA verbs itself", sql));
        }
        Ok(Statement {
            plain_select: keyword == "SELECT" && !mentions_variable && is_plain_select(&text),
            leaves_session_clean: !mentions_variable && KEEPS_SESSION.contains(&keyword.as_str()),
            many_results: keyword == "CALL",
            text,
        })
    }
}

/// Statements after which a session is as it was. Others (SET, USE, CREATE TEMPORARY TABLE, LOCK, CALL …) may
/// change it, and then it is not used for another branch.
const KEEPS_SESSION: [&str; 9] =
    ["SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH", "TABLE", "VALUES", "DO"];

fn misuse(what: &str, sql: &str) -> XaError {
    XaError::Statement(format!("{what}: {}", excerpt(sql)))
}

/// The beginning of a statement, for error messages.
pub(crate) fn excerpt(sql: &str) -> String {
    let mut text: String = sql.chars().take(80).collect();
    if text.len() < sql.len() {
        text.push('…');
    }
    text
}

fn first_keyword(text: &str) -> String {
    let start = text.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
    let end = start.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(start.len());
    start[..end].to_ascii_uppercase()
}

/// Locking reads and SELECT … INTO are not plain. Looks for words anywhere, in strings too: a false alarm
/// costs a log write, the opposite would lose one.
fn is_plain_select(text: &str) -> bool {
    !text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| {
        ["FOR", "LOCK", "INTO", "GET_LOCK", "RELEASE_LOCK"].iter().any(|w| word.eq_ignore_ascii_case(w))
    })
}

/// Writes a value so that it reads the same in every sql_mode: no backslash ever stands in the text. That is
/// why `Value::as_sql` is not used for strings: its escapes are wrong under NO_BACKSLASH_ESCAPES or without
/// it, and a batch may change the mode half-way.
pub(crate) fn push_literal(text: &mut String, value: &Value) {
    match value {
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(string) if !string.contains(['\\', '\0']) => {
                text.push('\'');
                for c in string.chars() {
                    if c == '\'' {
                        text.push('\'');
                    }
                    text.push(c);
                }
                text.push('\'');
            }
            Ok(_) => {
                text.push_str("_utf8mb4 ");
                push_bytes(text, bytes);
            }
            Err(_) => push_bytes(text, bytes),
        },
        // With an exponent the literal is a DOUBLE; without one it would be a DECIMAL.
        Value::Float(number) => _ = write!(text, "{number:e}"),
        Value::Double(number) => _ = write!(text, "{number:e}"),
        other => text.push_str(&other.as_sql(true)),
    }
}

/// Writes bytes as a hex literal.
pub(crate) fn push_bytes(text: &mut String, bytes: &[u8]) {
    text.push_str("X'");
    push_hex(text, bytes);
    text.push('\'');
}

enum Piece<'a> {
    Plain(&'a str),
    Quoted(&'a str),
    Comment,
    Placeholder,
    Semicolon,
}

impl Piece<'_> {
    fn is_blank(&self) -> bool {
        matches!(self, Piece::Plain(text) if text.trim().is_empty())
    }
}

struct Scan<'a> {
    sql: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn next_piece(&mut self) -> Result<Option<Piece<'a>>, XaError> {
        let rest = &self.sql[self.at..];
        let Some(first) = rest.chars().next() else { return Ok(None) };
        let (length, piece) = match first {
            '?' => (1, Piece::Placeholder),
            ';' => (1, Piece::Semicolon),
            '\'' | '"' | '`' => {
                let length = self.quoted_length(rest, first)?;
                (length, Piece::Quoted(&rest[..length]))
            }
            '#' => (line_length(rest), Piece::Comment),
            '-' if rest.starts_with("--") && rest[2..].starts_with([' ', '\t', '\n', '\r']) => {
                (line_length(rest), Piece::Comment)
            }
            '/' if rest.starts_with("/*!") || rest.starts_with("/*M!") || rest.starts_with("/*+") => {
                return Err(misuse("executable comments and hints are not supported", self.sql));
            }
            '/' if rest.starts_with("/*") => match rest[2..].find("*/") {
                Some(end) => (end + 4, Piece::Comment),
                None => return Err(misuse("unfinished comment", self.sql)),
            },
            _ => {
                let skip = first.len_utf8();
                let end = rest[skip..].find(['?', ';', '\'', '"', '`', '#', '-', '/']);
                let length = end.map_or(rest.len(), |end| end + skip);
                (length, Piece::Plain(&rest[..length]))
            }
        };
        self.at += length;
        Ok(Some(piece))
    }

    fn quoted_length(&self, rest: &str, quote: char) -> Result<usize, XaError> {
        match rest[1..].find(quote) {
            None => Err(misuse("unfinished quote", self.sql)),
            Some(end) if quote != '`' && rest[1..=end].contains('\\') => {
                Err(misuse("a backslash inside quotes: pass the text as a parameter", self.sql))
            }
            // A doubled quote is simply two quoted pieces side by side.
            Some(end) => Ok(end + 2),
        }
    }
}

fn line_length(rest: &str) -> usize {
    rest.find('\n').unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(sql: &str, params: Vec<Value>) -> Result<String, XaError> {
        Statement::new(sql, Params::Positional(params)).map(|statement| statement.text)
    }

    #[test]
    fn parameters_go_where_the_question_marks_are() {
        let written = text(
            "UPDATE t SET a = ?, b = '?', `c?` = \"?\" /* ? */ WHERE id = ? -- ?\n;",
            vec![Value::from("it's"), Value::from(7)],
        );
        assert_eq!(written.unwrap(), "UPDATE t SET a = 'it''s', b = '?', `c?` = \"?\"   WHERE id = 7");
    }

    #[test]
    fn what_depends_on_the_sql_mode_is_never_written() {
        let written = text("SELECT ?, ?, ?", vec!["a\\'b".into(), vec![0xffu8, 0x27].into(), "x\0".into()]);
        assert_eq!(written.unwrap(), "SELECT _utf8mb4 X'615C2762', X'FF27', _utf8mb4 X'7800'");
    }

    #[test]
    fn misuse_is_refused() {
        for (sql, params) in [
            ("", 0),
            (" ; ", 0),
            ("SELECT ?", 0),
            ("SELECT 1", 1),
            ("SELECT 1; SELECT 2", 0),
            ("SELECT 1; ?", 1),
            ("xa end 'x'", 0),
            ("/* c */ XA RECOVER", 0),
            ("SELECT '\\'", 0),
            ("SELECT 'a", 0),
            ("SELECT /* a", 0),
            ("SELECT /*! 1 */", 0),
        ] {
            assert!(text(sql, vec![Value::from(1); params]).is_err(), "{sql}");
        }
        let named = Params::Named([(b"a".to_vec(), Value::from(1))].into());
        assert!(Statement::new("SELECT :a", named).is_err());
    }

    #[test]
    fn plain_selects_and_clean_sessions_are_told_by_the_text() {
        let of = |sql| Statement::new(sql, Params::Empty).unwrap();
        assert!(of("  ( select a from t )").plain_select);
        for sql in [
            "SELECT a FROM t FOR UPDATE",
            "SELECT a FROM t lock in share mode",
            "SELECT a INTO @b FROM t",
            "SELECT @a := 1",
            "SELECT get_lock('a', 1)",
            "UPDATE t SET a = 1",
            "WITH x AS (SELECT 1) DELETE FROM t",
        ] {
            assert!(!of(sql).plain_select, "{sql}");
        }
        assert!(of("UPDATE t SET a = 1").leaves_session_clean);
        for sql in ["SET @a = 1", "CALL p()", "USE other", "SELECT @a := 1"] {
            assert!(!of(sql).leaves_session_clean, "{sql}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(sql in ".{0,60}", values in proptest::collection::vec(".{0,8}", 0..3)) {
            let _ = text(&sql, values.into_iter().map(Value::from).collect());
        }

        #[test]
        fn no_string_gets_out_of_its_quotes(string in any::<String>()) {
            let written = text("SELECT ?", vec![Value::from(string.as_str())]).unwrap();
            let literal = &written["SELECT ".len()..];
            prop_assert!(!literal.contains('\\'));
            if let Some(inner) = literal.strip_prefix('\'').and_then(|l| l.strip_suffix('\'')) {
                prop_assert!(!inner.replace("''", "").contains('\''));
                prop_assert_eq!(inner.replace("''", "'"), string);
            } else {
                prop_assert!(literal.starts_with("_utf8mb4 X'"));
            }
        }
    }
}
