//! Aligned text, with colours where they are wanted.

use std::io::Write as _;

use clap::builder::styling::{AnsiColor, Style};
use tabwriter::TabWriter;

use super::Look;

/// Characters of a free text that a table shows at least, however narrow the terminal is.
const TEXT_CHARS_MIN: usize = 20;

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
    /// Whether it may be cut.
    is_free: bool,
}

impl Cell {
    /// A text of any origin; control characters in it do nothing to the terminal.
    pub(super) fn new(text: impl AsRef<str>) -> Self {
        Cell { text: harmless(text.as_ref()), tone: None, is_free: false }
    }

    /// A free text of any length, which is cut where a terminal shows it and is too narrow.
    pub(super) fn free(text: &str) -> Self {
        Cell { is_free: true, ..Cell::new(text) }
    }

    fn chars(&self) -> usize {
        self.text.chars().count()
    }

    fn cut(&mut self, chars_max: usize) {
        if self.is_free && self.chars() > chars_max {
            self.text = self.text.chars().take(chars_max.saturating_sub(1)).chain(['…']).collect();
        }
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
    let mut rows: Vec<Vec<Cell>> = rows.into_iter().collect();
    if let Some(width) = look.width {
        fit(width, &mut rows);
    }
    let mut writer = TabWriter::new(Vec::new()).ansi(true);
    for row in rows {
        let line: Vec<_> = row.iter().map(|cell| cell.paint(look)).collect();
        // Writing to memory does not fail.
        let _ = writeln!(writer, "{}", line.join("\t"));
    }
    let bytes = writer.into_inner().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Cuts free texts, the last column of them first, until the lines have the width.
fn fit(width: usize, rows: &mut [Vec<Cell>]) {
    const GAP: usize = 2;
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |column| rows.iter().filter_map(|row| row.get(column)).map(Cell::chars).max().unwrap_or(0);
    let mut total = (0..columns).map(|column| widest(column) + GAP).sum::<usize>().saturating_sub(GAP);
    for column in (0..columns).rev() {
        let cells = || rows.iter().filter_map(|row| row.get(column));
        if total <= width || !cells().any(|cell| cell.is_free) {
            continue;
        }
        let widest = cells().map(Cell::chars).max().unwrap_or(0);
        let room = widest.saturating_sub(total - width).max(TEXT_CHARS_MIN);
        total -= widest.saturating_sub(room);
        rows.iter_mut().filter_map(|row| row.get_mut(column)).for_each(|cell| cell.cut(room));
    }
}

/// Names and reasons come from other programs: without what would steer the terminal, on one line.
pub(in crate::cli) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_bidirectional_control(c) { ' ' } else { c }).collect()
}

/// Characters that turn the direction of the text around them.
fn is_bidirectional_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look { colour: false, now_ms: 0, width: None };
    const COLOUR: Look = Look { colour: true, now_ms: 0, width: None };

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
    }

    #[test]
    fn free_texts_are_cut_on_a_terminal_only_and_to_its_width() {
        let shown = |width, count| {
            let rows = vec![vec!["a".into(), Cell::free(&"é".repeat(count)), "end".into()]];
            table(&Look { width, ..PLAIN }, &["ONE", "WHY", "THREE"], rows).lines().nth(1).unwrap().to_owned()
        };
        // Three and five characters, and two gaps of two.
        assert_eq!(shown(Some(92), 80), format!("a    {}  end", "é".repeat(80)));
        assert_eq!(shown(Some(91), 80), format!("a    {}…  end", "é".repeat(78)));
        assert_eq!(shown(Some(10), 80), format!("a    {}…  end", "é".repeat(19)));
        assert_eq!(shown(None, 800), format!("a    {}  end", "é".repeat(800)));
    }

    #[test]
    fn facts_without_value_are_left_out() {
        assert_eq!(
            facts(&PLAIN, [("a", Some("1".into())), ("b", None), ("long", Some("2".into()))]),
            "a     1\nlong  2\n"
        );
    }
}
