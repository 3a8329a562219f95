//! The names of things: global transactions, branches, epochs, clusters, and the unit of time.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The number of times that a coordinator has started on (or taken over) a store.
///
/// It is raised durably before the coordinator issues its first [`Gtid`], so every gtid says which life of
/// which coordinator it came from. A gtid of an epoch that has ended and that is not on record was rolled
/// back, for ever: no tombstone is needed (presumed abort, Mohan et al., R*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of one coordinator store, drawn at random when the store is created.
///
/// It stands in every XID, so that coordinators sharing a database server never touch each other's branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

impl ClusterId {
    /// Fixed-length big-endian form, as it stands in an XID.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A global transaction id: 128 bits, printed as a UUID.
///
/// The layout is UUIDv8 (RFC 9562): 48 bits of Unix time in milliseconds, 12 + 20 bits of [`Epoch`], and 42
/// bits of sequence. Ids of one epoch are unique because the pair (time, sequence) only ever grows; ids of
/// two epochs differ in the epoch. They sort by time, which keeps the barrier table's index dense. The coordinator
/// chooses sequences at random within that, so that no id can be worked out from another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gtid(Uuid);

/// Bits of a [`Gtid`] that hold its sequence.
const SEQUENCE_BITS: u32 = 42;
/// Bits of the epoch that stand in the third group of the UUID; the rest follow in the fourth.
const EPOCH_LOW_BITS: u32 = 20;

impl Gtid {
    /// The largest sequence that fits.
    pub const SEQUENCE_MAX: u64 = (1 << SEQUENCE_BITS) - 1;

    /// Puts a gtid together. Bits beyond each field's width are cut off.
    pub fn compose(unix_ms: u64, epoch: Epoch, sequence: u64) -> Self {
        let high = (unix_ms & 0xffff_ffff_ffff) << 16 | u64::from(epoch.0 >> EPOCH_LOW_BITS);
        let epoch_low = u64::from(epoch.0) & ((1 << EPOCH_LOW_BITS) - 1);
        let low = epoch_low << SEQUENCE_BITS | (sequence & Self::SEQUENCE_MAX);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        // `new_v8` overwrites the version nibble and the two variant bits, which compose() leaves zero.
        Gtid(Uuid::new_v8(bytes))
    }

    /// The epoch of the coordinator that issued this id.
    pub fn epoch(self) -> Epoch {
        let (high, low) = self.0.as_u64_pair();
        let low_bits = (low >> SEQUENCE_BITS) & ((1 << EPOCH_LOW_BITS) - 1);
        Epoch(((high & 0xfff) << EPOCH_LOW_BITS | low_bits) as u32)
    }

    /// When it was issued: milliseconds since the Unix epoch, by the coordinator's clock.
    pub fn unix_ms(self) -> u64 {
        self.0.as_u64_pair().0 >> 16
    }

    /// The 16 bytes, as they stand in an XID and in the barrier table.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// Reads the 16 bytes back.
    ///
    /// # Errors
    /// [`InvalidId`] when the bytes are not a UUIDv8: then no Concord issued it.
    pub fn from_bytes(bytes: [u8; 16]) -> Result<Self, InvalidId> {
        let uuid = Uuid::from_bytes(bytes);
        if uuid.get_version_num() == 8 && uuid.get_variant() == uuid::Variant::RFC4122 {
            Ok(Gtid(uuid))
        } else {
            Err(InvalidId)
        }
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gtid({self})")
    }
}

impl FromStr for Gtid {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // Only the canonical form: one transaction has one spelling, in logs and in idempotency checks alike.
        if text.len() != 36 {
            return Err(InvalidId);
        }
        let uuid = Uuid::try_parse(text).map_err(|_| InvalidId)?;
        Gtid::from_bytes(uuid.into_bytes())
    }
}

/// Text or bytes that are not a [`Gtid`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a gtid: expected a version 8 UUID such as 0192f6a0-8c00-8000-8000-040000000001")]
pub struct InvalidId;

/// The number of a branch within its global transaction, from 1 up; never used twice, retries included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchId(pub u32);

impl BranchId {
    /// The first branch of every transaction.
    pub const FIRST: BranchId = BranchId(1);

    /// Fixed-length big-endian form, as it stands in an XID.
    pub fn to_bytes(self) -> [u8; 4] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for BranchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A point in time or a span, in milliseconds. What the zero point is, the caller decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// `self + other`, stopping at the largest value.
    pub fn plus(self, other: Millis) -> Millis {
        Millis(self.0.saturating_add(other.0))
    }

    /// `self - other`, stopping at zero.
    pub fn minus(self, other: Millis) -> Millis {
        Millis(self.0.saturating_sub(other.0))
    }
}

impl From<std::time::Duration> for Millis {
    fn from(span: std::time::Duration) -> Self {
        Millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<Millis> for std::time::Duration {
    fn from(span: Millis) -> Self {
        std::time::Duration::from_millis(span.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gtid_keeps_its_fields(ms in 0u64..1 << 48, epoch in any::<u32>(), sequence in 0..=Gtid::SEQUENCE_MAX) {
            let gtid = Gtid::compose(ms, Epoch(epoch), sequence);
            prop_assert_eq!(gtid.epoch(), Epoch(epoch));
            prop_assert_eq!(gtid.unix_ms(), ms);
            prop_assert_eq!(gtid.to_string().parse(), Ok(gtid));
            prop_assert_eq!(Gtid::from_bytes(gtid.to_bytes()), Ok(gtid));
        }

        #[test]
        fn gtids_of_one_epoch_sort_by_time_then_sequence(a in (0u64..1 << 48, 0..=Gtid::SEQUENCE_MAX), b in (0u64..1 << 48, 0..=Gtid::SEQUENCE_MAX)) {
            let of = |(ms, sequence)| Gtid::compose(ms, Epoch(7), sequence);
            prop_assert_eq!(a.cmp(&b), of(a).cmp(&of(b)));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            if let Ok(gtid) = text.parse::<Gtid>() {
                prop_assert_eq!(gtid.to_string(), text.to_lowercase());
            }
        }
    }

    #[test]
    fn other_uuids_are_refused() {
        for text in ["", "x", "0192f6a0-8c00-7000-8000-040000000001", "0192f6a08c0080008000040000000001"] {
            assert_eq!(text.parse::<Gtid>(), Err(InvalidId), "{text}");
        }
    }
}
