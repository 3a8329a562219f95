//! Rows of `XA RECOVER`, of whatever program made them.

use bolero::{TypeGenerator, check};
use concord_protocol::Gtid;
use concord_xa::{FORMAT_ID, RawXid, Xid};

#[derive(Debug, Clone, TypeGenerator)]
struct Row {
    format_id: Option<i64>,
    lengths: Option<Lengths>,
    data: Vec<u8>,
    /// The bits that make a gtid.
    stamped: bool,
}

#[derive(Debug, Clone, TypeGenerator)]
enum Lengths {
    Any(i64, i64),
    Small(i8, i8),
    /// Of what is there, so much is the first part; and so much is missing.
    Fitting(u8, i8),
}

impl Lengths {
    fn of(&self, length: usize) -> (i64, i64) {
        match *self {
            Lengths::Any(gtrid, bqual) => (gtrid, bqual),
            Lengths::Small(gtrid, bqual) => (gtrid.into(), bqual.into()),
            Lengths::Fitting(gtrid, missing) => {
                let length = length as i64;
                let gtrid = i64::from(gtrid) % (length + 1);
                (gtrid, length - gtrid - i64::from(missing / 64))
            }
        }
    }
}

impl Row {
    /// What looks like one of ours, unless it says otherwise.
    fn parts(&self) -> (i64, i64, i64, Vec<u8>) {
        let mut data = self.data.clone();
        if self.lengths.is_none() {
            data.resize(28, 0);
        }
        let (gtrid, bqual) = self.lengths.as_ref().map_or((24, 4), |lengths| lengths.of(data.len()));
        if self.stamped && data.len() >= 24 {
            data[14] = data[14] & 0x0f | 0x80;
            data[16] = data[16] & 0x3f | 0x80;
        }
        (self.format_id.unwrap_or(FORMAT_ID), gtrid, bqual, data)
    }
}

/// It is either nobody's, or read without loss; and taken for ours only if written by us it would be the same.
#[test]
fn a_row_of_xa_recover_is_ours_to_the_last_byte_or_left_alone() {
    check!().with_type::<Row>().for_each(|row| {
        let (format_id, gtrid_length, bqual_length, data) = row.parts();
        let Some(raw) = RawXid::from_row(format_id, gtrid_length, bqual_length, &data) else {
            let fits = gtrid_length >= 0
                && bqual_length >= 0
                && gtrid_length.checked_add(bqual_length) == i64::try_from(data.len()).ok();
            assert!(!fits, "a row that fits is refused");
            return;
        };
        assert_eq!([raw.gtrid.as_slice(), raw.bqual.as_slice()].concat(), data);
        assert_eq!(raw.gtrid.len(), usize::try_from(gtrid_length).unwrap());
        assert_eq!(raw.bqual.len(), usize::try_from(bqual_length).unwrap());
        let gtid = || Gtid::from_bytes(raw.gtrid[8..].try_into().unwrap());
        let ours = format_id == FORMAT_ID && (gtrid_length, bqual_length) == (24, 4) && gtid().is_ok();
        let xid = Xid::parse(&raw);
        assert_eq!(xid.is_some(), ours);
        if let Some(xid) = xid {
            assert_eq!(RawXid::from(&xid), raw);
            // As a statement wants it: hex only, of fixed length.
            let sql = xid.to_sql();
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
            assert_eq!(sql, format!("X'{}',X'{}',{FORMAT_ID}", hex(&raw.gtrid), hex(&raw.bqual)));
        }
    });
}
