//! Aligned text, with colours where they are wanted.

use std::io::Write as _;

use clap::builder::styling::{AnsiColor, Style};
use tabwriter::TabWriter;

use super::Look;

/// Characters of a free text that a table shows.
const TEXT_CHARS_MAX: usize = 60;

/// What a colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// Under way.
    Busy,
    /// Ended, without effect.
    Quiet,
    /// Somebody should look at it.
    Alarm,
    /// A heading or a label.
    Label,
}

/// One piece of text in a table.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    /// A text of any origin; control characters in it do nothing to the terminal.
    pub(super) fn new(text: impl AsRef<str>) -> Self {
        Cell { text: harmless(text.as_ref()), tone: None }
    }

    /// A free text, cut to fit a table.
    pub(super) fn short(text: &str) -> Self {
        if text.chars().count() <= TEXT_CHARS_MAX {
            return Cell::new(text);
        }
        let start: String = text.chars().take(TEXT_CHARS_MAX - 1).collect();
        Cell::new(format!("{start}…"))
    }

    /// Nothing to say.
    pub(super) fn none() -> Self {
        Cell::new("-")
    }

    pub(super) fn tone(self, tone: Tone) -> Self {
        Cell { tone: Some(tone), ..self }
    }

    pub(super) fn paint(&self, look: &Look) -> String {
        let Some(tone) = self.tone.filter(|_| look.colour) else { return self.text.clone() };
        let style = match tone {
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Busy => AnsiColor::Cyan.on_default(),
            Tone::Quiet => AnsiColor::Yellow.on_default(),
            Tone::Alarm => AnsiColor::Red.on_default().bold(),
            Tone::Label => Style::new().bold(),
        };
        format!("{style}{}{style:#}", self.text)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Cell::new(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Cell::new(text)
    }
}

/// Rows under a heading, aligned.
pub(super) fn table(look: &Look, heading: &[&str], rows: impl IntoIterator<Item = Vec<Cell>>) -> String {
    let heading = heading.iter().map(|title| Cell::new(title).tone(Tone::Label)).collect();
    align(look, std::iter::once(heading).chain(rows))
}

/// Labels and what they stand for, aligned; those without a value are left out.
pub(super) fn facts(look: &Look, facts: impl IntoIterator<Item = (&'static str, Option<Cell>)>) -> String {
    let rows =
        facts.into_iter().filter_map(|(label, value)| Some(vec![Cell::new(label).tone(Tone::Label), value?]));
    align(look, rows)
}

fn align(look: &Look, rows: impl IntoIterator<Item = Vec<Cell>>) -> String {
    let mut writer = TabWriter::new(Vec::new()).ansi(true);
    for row in rows {
        let line: Vec<_> = row.iter().map(|cell| cell.paint(look)).collect();
        // Writing to memory does not fail.
        let _ = writeln!(writer, "{}", line.join("\t"));
    }
    let bytes = writer.into_inner().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Names and reasons come from other programs: without what would steer the terminal, on one line.
pub(super) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_bidirectional_control(c) { ' ' } else { c }).collect()
}

/// Characters that turn the direction of the text around them.
fn is_bidirectional_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look { colour: false, now_ms: 0 };
    const COLOUR: Look = Look { colour: true, now_ms: 0 };

    fn rows() -> Vec<Vec<Cell>> {
        vec![
            vec!["längst".into(), Cell::new("good").tone(Tone::Good), "x".into()],
            vec!["a".into(), "b".into(), "y".into()],
        ]
    }

    #[test]
    fn columns_are_aligned() {
        assert_eq!(
            table(&PLAIN, &["ONE", "TWO", "THREE"], rows()),
            "ONE     TWO   THREE\nlängst  good  x\na       b     y\n"
        );
    }

    #[test]
    fn colours_do_not_disturb_the_columns() {
        let coloured = table(&COLOUR, &["ONE", "TWO", "THREE"], rows());
        assert!(coloured.contains("\u{1b}[32mgood\u{1b}[0m  x"), "{coloured:?}");
        let mut plain = String::new();
        for (i, part) in coloured.split('\u{1b}').enumerate() {
            plain.push_str(if i == 0 { part } else { part.split_once('m').unwrap().1 });
        }
        assert_eq!(plain, table(&PLAIN, &["ONE", "TWO", "THREE"], rows()));
    }

    #[test]
    fn text_of_others_does_not_steer_the_terminal() {
        assert_eq!(Cell::new("a\u{1b}[2Jb\tc\nd\u{202e}e").paint(&COLOUR), "a [2Jb c d e");
        assert_eq!(Cell::short(&"é".repeat(61)).paint(&PLAIN), format!("{}…", "é".repeat(59)));
    }

    #[test]
    fn facts_without_value_are_left_out() {
        assert_eq!(
            facts(&PLAIN, [("a", Some("1".into())), ("b", None), ("long", Some("2".into()))]),
            "a     1\nlong  2\n"
        );
    }
}
