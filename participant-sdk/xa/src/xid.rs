//! Names of branches, as databases know them.

use std::fmt::{self, Write as _};

use concord_protocol::{BranchId, ClusterId, Gtid};

/// The format id of every XID of Concord: "CNCD". MariaDB refuses ids above 2³¹−1, MySQL takes them and may
/// lose them in a crash; this one is below.
pub const FORMAT_ID: i64 = 0x434E_4344;

const GTRID_LEN: usize = 24;
const BQUAL_LEN: usize = 4;

/// The XID of one branch: the cluster and the gtid in the global part, the branch id in the other.
///
/// docs/xa.md rule 1: fixed lengths, hex literals only, and never used again: a branch id runs at most once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Xid {
    /// Whose branch it is: coordinators that share a server never touch each other's.
    pub cluster: ClusterId,
    /// The global transaction.
    pub gtid: Gtid,
    /// The branch in it.
    pub branch: BranchId,
}

impl Xid {
    /// An XID as `XA START` and the others want it: `X'…',X'…',1129202500`.
    pub fn to_sql(&self) -> String {
        let mut text = String::with_capacity(80);
        text.push_str("X'");
        push_hex(&mut text, &self.cluster.to_bytes());
        push_hex(&mut text, &self.gtid.to_bytes());
        text.push_str("',X'");
        push_hex(&mut text, &self.branch.to_bytes());
        // Writing to a String cannot fail.
        let _ = write!(text, "',{FORMAT_ID}");
        text
    }

    /// The XID in `raw`, if Concord made it.
    pub fn parse(raw: &RawXid) -> Option<Self> {
        if raw.format_id != FORMAT_ID || raw.bqual.len() != BQUAL_LEN || raw.gtrid.len() != GTRID_LEN {
            return None;
        }
        let (cluster, gtid) = raw.gtrid.split_first_chunk::<8>()?;
        let gtid = Gtid::from_bytes(gtid.try_into().ok()?).ok()?;
        let branch = u32::from_be_bytes(raw.bqual.as_slice().try_into().ok()?);
        Some(Xid { cluster: ClusterId(u64::from_be_bytes(*cluster)), gtid, branch: BranchId(branch) })
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} branch {}", self.gtid, self.branch)
    }
}

/// Any XID that a server lists, foreign ones included. The parts may hold any bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RawXid {
    /// Who made it, by convention.
    pub format_id: i64,
    /// The global part, at most 64 bytes.
    pub gtrid: Vec<u8>,
    /// The branch qualifier, at most 64 bytes.
    pub bqual: Vec<u8>,
}

impl RawXid {
    /// Takes apart one row of `XA RECOVER`: the parts stand in `data` one after the other.
    ///
    /// None when the lengths do not fit the data: then it is nobody's to touch.
    pub fn from_row(format_id: i64, gtrid_length: i64, bqual_length: i64, data: &[u8]) -> Option<Self> {
        let gtrid_length = usize::try_from(gtrid_length).ok()?;
        let bqual_length = usize::try_from(bqual_length).ok()?;
        if gtrid_length.checked_add(bqual_length)? != data.len() {
            return None;
        }
        let (gtrid, bqual) = data.split_at_checked(gtrid_length)?;
        Some(RawXid { format_id, gtrid: gtrid.to_vec(), bqual: bqual.to_vec() })
    }
}

impl From<&Xid> for RawXid {
    fn from(xid: &Xid) -> Self {
        let mut gtrid = Vec::with_capacity(GTRID_LEN);
        gtrid.extend_from_slice(&xid.cluster.to_bytes());
        gtrid.extend_from_slice(&xid.gtid.to_bytes());
        RawXid { format_id: FORMAT_ID, gtrid, bqual: xid.branch.to_bytes().to_vec() }
    }
}

impl fmt::Display for RawXid {
    /// As a database prints it: hex, hex, format id.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::from("0x");
        push_hex(&mut text, &self.gtrid);
        text.push_str(",0x");
        push_hex(&mut text, &self.bqual);
        write!(f, "{text},{}", self.format_id)
    }
}

/// Appends `bytes` in upper-case hex.
pub(crate) fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.reserve(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use concord_protocol::Epoch;
    use proptest::prelude::*;

    fn xid(cluster: u64, ms: u64, branch: u32) -> Xid {
        Xid { cluster: ClusterId(cluster), gtid: Gtid::compose(ms, Epoch(3), 7), branch: BranchId(branch) }
    }

    #[test]
    fn it_is_written_in_hex() {
        let text = xid(0x0102, 1 << 40, 5).to_sql();
        assert_eq!(text, "X'0000000000000102010000000000800080000C0000000007',X'00000005',1129202500");
    }

    #[test]
    fn the_format_id_is_one_that_both_servers_keep() {
        assert!(FORMAT_ID > 0 && FORMAT_ID <= i64::from(i32::MAX));
    }

    proptest! {
        #[test]
        fn rule_1_an_xid_is_read_back(cluster in any::<u64>(), ms in 0u64..1 << 48, branch in any::<u32>()) {
            let xid = xid(cluster, ms, branch);
            prop_assert_eq!(Xid::parse(&RawXid::from(&xid)), Some(xid));
        }

        #[test]
        fn rule_20_any_row_is_read_or_left_alone(
            format in any::<i64>(), gtrid in any::<i64>(), bqual in any::<i64>(),
            data in proptest::collection::vec(any::<u8>(), 0..140),
        ) {
            for format in [format, FORMAT_ID] {
                for (gtrid, bqual) in [(gtrid, bqual), (24, 4), (data.len() as i64, 0), (4, 24)] {
                    if let Some(raw) = RawXid::from_row(format, gtrid, bqual, &data)
                        && let Some(xid) = Xid::parse(&raw)
                    {
                        prop_assert_eq!(RawXid::from(&xid), raw);
                    }
                }
            }
        }
    }
}
