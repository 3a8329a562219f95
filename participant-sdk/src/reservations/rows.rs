//! Reading rows, whatever the driver.

use concord_protocol::{BranchId, Gtid};

use super::error::ReservationError;
use crate::local::SqlValue;

/// Reads a row's columns from left to right.
pub(crate) struct Reader<'a> {
    table: &'a str,
    columns: std::slice::Iter<'a, SqlValue>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(table: &'a str, row: &'a [SqlValue]) -> Self {
        Reader { table, columns: row.iter() }
    }

    pub(crate) fn number<N: TryFrom<i64>>(&mut self) -> Result<N, ReservationError> {
        let column = self.columns.next();
        column
            .and_then(SqlValue::as_i64)
            .and_then(|value| N::try_from(value).ok())
            .ok_or_else(|| self.unread())
    }

    /// None: NULL.
    pub(crate) fn optional_number<N: TryFrom<i64>>(&mut self) -> Result<Option<N>, ReservationError> {
        match self.columns.as_slice().first() {
            Some(SqlValue::Null) => {
                self.columns.next();
                Ok(None)
            }
            _ => self.number().map(Some),
        }
    }

    /// A sum, which may be larger than any single figure.
    pub(crate) fn sum(&mut self) -> Result<i128, ReservationError> {
        let digits = self.columns.next().and_then(SqlValue::as_str).and_then(|digits| digits.parse().ok());
        digits.ok_or_else(|| self.unread())
    }

    pub(crate) fn text(&mut self) -> Result<String, ReservationError> {
        self.optional_text()?.ok_or_else(|| self.unread())
    }

    pub(crate) fn optional_text(&mut self) -> Result<Option<String>, ReservationError> {
        match self.columns.next() {
            Some(SqlValue::Null) => Ok(None),
            Some(SqlValue::Text(text)) => Ok(Some(text.clone())),
            _ => Err(self.unread()),
        }
    }

    pub(crate) fn gtid(&mut self) -> Result<Gtid, ReservationError> {
        let bytes = self.columns.next().and_then(SqlValue::as_bytes);
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.and_then(|bytes| Gtid::from_bytes(bytes).ok()).ok_or_else(|| self.unread())
    }

    pub(crate) fn branch(&mut self) -> Result<BranchId, ReservationError> {
        self.number().map(BranchId)
    }

    fn unread(&self) -> ReservationError {
        ReservationError::Corrupt(format!("a row of {} cannot be read", self.table))
    }
}
