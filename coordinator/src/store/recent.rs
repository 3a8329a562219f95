//! What the writer has lately written to the log, so that what ends soon need not be read back.

use std::collections::{HashMap, VecDeque};

use concord_proto::store::{RecordRow, Records};
use prost::Message as _;

use super::row::{Mark, StoredRow};

/// So many transactions are remembered, those that have begun last.
const TRANSACTIONS_MAX: usize = 4096;
/// What is larger is read back.
const BYTES_MAX: usize = 4096;

/// All records of a transaction, as they stand in a row of the table `ended`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::store) struct Rows {
    /// As it began, the last time that it did; empty for one that did not.
    pub(in crate::store) name: String,
    /// An encoded `concord.store.v1.Records`.
    pub(in crate::store) encoded: Vec<u8>,
}

impl Rows {
    /// One more.
    pub(in crate::store) fn push(&mut self, row: StoredRow, mark: &Mark) {
        if let Mark::Begun { name, .. } = mark {
            self.name.clone_from(name);
        }
        self.encoded.extend(encode(row));
    }
}

/// A list of one. Encoded lists, one behind the other, are the encoding of all that is in them.
pub(in crate::store) fn encode(row: StoredRow) -> Vec<u8> {
    Records { rows: vec![RecordRow::from(row)] }.encode_to_vec()
}

/// Of the transactions that began last.
#[derive(Debug, Default)]
pub(in crate::store) struct Recent {
    rows: HashMap<[u8; 16], Rows>,
    /// As they began. Some of them may have ended.
    begun: VecDeque<[u8; 16]>,
}

impl Recent {
    /// A record has been written to the log; `is_first` if its transaction had none.
    pub(in crate::store) fn add(&mut self, gtid: [u8; 16], row: StoredRow, mark: &Mark, is_first: bool) {
        if is_first {
            self.begun.push_back(gtid);
            self.rows.insert(gtid, Rows::default());
            if self.begun.len() > TRANSACTIONS_MAX
                && let Some(oldest) = self.begun.pop_front()
            {
                self.rows.remove(&oldest);
            }
        }
        let Some(rows) = self.rows.get_mut(&gtid) else { return };
        rows.push(row, mark);
        if rows.encoded.len() > BYTES_MAX {
            self.rows.remove(&gtid);
        }
    }

    /// All that a transaction has, unless it is forgotten.
    pub(in crate::store) fn get(&self, gtid: [u8; 16]) -> Option<&Rows> {
        self.rows.get(&gtid)
    }

    /// The same, and forgets it.
    pub(in crate::store) fn take(&mut self, gtid: [u8; 16]) -> Option<Rows> {
        self.rows.remove(&gtid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(body: &[u8]) -> StoredRow {
        StoredRow { epoch: 1, seq: 2, at: 3, crc: 4, body: body.to_vec() }
    }

    fn add(recent: &mut Recent, gtid: u128, body: &[u8], is_first: bool) {
        recent.add(gtid.to_be_bytes(), row(body), &Mark::Exists, is_first);
    }

    fn bodies(rows: &Rows) -> Vec<Vec<u8>> {
        let rows = Records::decode(rows.encoded.as_slice()).unwrap().rows;
        rows.iter().map(|row| row.body.to_vec()).collect()
    }

    #[test]
    fn everything_is_remembered_or_nothing() {
        let mut recent = Recent::default();
        for gtid in 0..=TRANSACTIONS_MAX as u128 {
            add(&mut recent, gtid, b"a", true);
        }
        add(&mut recent, 0, b"b", false);
        assert_eq!(recent.take(0_u128.to_be_bytes()), None, "its first record is forgotten");
        add(&mut recent, 1, b"b", false);
        add(&mut recent, 2, &[0; BYTES_MAX], false);
        add(&mut recent, 2, b"c", false);
        assert_eq!(bodies(&recent.take(1_u128.to_be_bytes()).unwrap()), [b"a", b"b"]);
        assert_eq!(recent.take(2_u128.to_be_bytes()), None, "it was too large");
        assert!(recent.rows.len() <= TRANSACTIONS_MAX && recent.begun.len() <= TRANSACTIONS_MAX);
    }

    #[test]
    fn the_last_begin_gives_the_name() {
        let mut rows = Rows::default();
        let begun = |name: &str| Mark::Begun { name: name.to_owned(), key: None };
        rows.push(row(b"a"), &begun("one"));
        rows.push(row(b"b"), &begun("other"));
        rows.push(row(b"c"), &Mark::Exists);
        assert_eq!(rows.name, "other");
    }
}
