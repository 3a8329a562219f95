//! One round trip of a branch: its statements, and the guards that end it early.

use mysql_async::from_row_opt;

use crate::error::XaError;
use crate::session::Outcome;
use crate::statement::excerpt;

/// The session variable counters that rise with every row written, by triggers and functions too.
pub(crate) const WRITE_COUNTERS: &str = "SHOW SESSION STATUS WHERE Variable_name IN \
     ('Handler_write', 'Handler_update', 'Handler_delete', 'Handler_delete_bulk')";

/// Stops a batch unless the statement before it matched the right number of rows. SET and not DO: MariaDB's DO
/// swallows the error.
pub(crate) fn push_guard(text: &mut String, rows: u64) {
    text.push_str(&format!(
        "SET @concord_rows = IF(ROW_COUNT() = {rows}, 1, (SELECT 1 UNION ALL SELECT 2)); "
    ));
}

#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) text: String,
    pub(crate) rows: Option<u64>,
    /// What to say when the number of rows is not met.
    pub(crate) refusal: Option<String>,
}

impl Queued {
    pub(crate) fn wrong_count(&self, actual: u64) -> XaError {
        match &self.refusal {
            Some(reason) => XaError::Refused(reason.clone()),
            None => {
                let expected = self.rows.unwrap_or_default();
                XaError::RowCount { statement: excerpt(&self.text), expected, actual }
            }
        }
    }
}

/// What a statement of a round trip is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    ReadOnly,
    Start,
    Counters,
    Work(usize),
    Guard(usize),
    Direct,
    Marker,
    End,
    Last,
}

/// A round trip in the making.
#[derive(Debug, Default)]
pub(crate) struct Trip {
    pub(crate) text: String,
    pub(crate) parts: Vec<Part>,
}

impl Trip {
    pub(crate) fn add(&mut self, part: Part, statement: &str) {
        self.parts.push(part);
        self.text.push_str(statement);
        self.text.push_str("; ");
    }
}

/// The sum of the write counters, where the results contain them.
pub(crate) fn counters(results: &[Outcome]) -> Option<u64> {
    let rows = &results.first()?.rows;
    if rows.is_empty() {
        return None;
    }
    let mut sum = 0;
    for row in rows {
        let (_, value) = from_row_opt::<(String, u64)>(row.clone()).ok()?;
        sum += value;
    }
    Some(sum)
}
