//! Gtids as text, from requests, metadata and the command line.

use bolero::{TypeGenerator, check};
use concord_proto::GTID_METADATA;
use concord_proto::status::reason;
use concord_protocol::{Epoch, Gtid, InvalidId};
use tonic::Code;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::damage::Damage;

/// Text that is a gtid, or was one, or never was.
#[derive(Debug, Clone, TypeGenerator)]
pub(crate) struct GtidText {
    unix_ms: u64,
    epoch: u32,
    sequence: u64,
    spelling: u8,
    damage: Damage,
}

impl GtidText {
    pub(crate) fn text(&self) -> String {
        let canonical = Gtid::compose(self.unix_ms, Epoch(self.epoch), self.sequence).to_string();
        let text = match self.spelling % 16 {
            0 => canonical.to_ascii_uppercase(),
            // All of these are UUIDs, and none is a gtid.
            1 => canonical.replace('-', ""),
            2 => format!("{{{canonical}}}"),
            3 => format!("urn:uuid:{canonical}"),
            _ => canonical,
        };
        String::from_utf8_lossy(&self.damage.apply(text.into_bytes())).into_owned()
    }
}

#[test]
fn text_is_one_gtid_or_none() {
    check!().with_type::<GtidText>().for_each(|one| {
        let text = one.text();
        let composed = Gtid::compose(one.unix_ms, Epoch(one.epoch), one.sequence);
        match text.parse::<Gtid>() {
            Ok(gtid) => {
                // One transaction has one spelling, but for the case of its letters.
                assert_eq!(gtid.to_string(), text.to_ascii_lowercase());
                assert_eq!(Gtid::from_bytes(gtid.to_bytes()), Ok(gtid));
                assert_eq!(Gtid::compose(gtid.unix_ms(), gtid.epoch(), low_bits(gtid)), gtid);
            }
            Err(InvalidId) => assert_ne!(text.to_ascii_lowercase(), composed.to_string()),
        }
    });
}

/// The sequence, which nobody needs to read back.
fn low_bits(gtid: Gtid) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = gtid.to_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h]) & Gtid::SEQUENCE_MAX
}

#[test]
fn metadata_hold_a_gtid_or_an_error_with_a_reason() {
    check!().with_type::<(GtidText, Option<Vec<u8>>)>().for_each(|(text, noise)| {
        let bytes = noise.clone().unwrap_or_else(|| text.text().into_bytes());
        let Ok(value) = MetadataValue::try_from(bytes.as_slice()) else { return };
        let mut metadata = MetadataMap::new();
        metadata.insert(GTID_METADATA, value);
        match concord_participant::gtid_of(&metadata) {
            Ok(gtid) => assert_eq!(gtid.to_string().as_bytes(), bytes.to_ascii_lowercase()),
            Err(status) => {
                assert_eq!(status.code(), Code::InvalidArgument);
                assert_eq!(reason(&status).as_deref(), Some("GTID_INVALID"));
            }
        }
    });
}
