//! The gRPC interfaces of Concord, generated from `proto/concord/v1/*.proto`, and what every caller of them
//! shares: metadata names and error details.

mod coordinators;
pub mod names;
pub mod status;
pub mod trace;

pub use coordinators::{
    Coordinators, Credentials, EndpointError, InvalidToken, LikelyCause, Place, root_cause,
};
pub use trace::TraceContext;

/// The public interface, version 1.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::large_enum_variant,
    clippy::doc_overindented_list_items
)]
pub mod v1 {
    tonic::include_proto!("concord.v1");
}

/// What the coordinator's store keeps. Not an interface: other programs read it at their own risk.
#[allow(missing_docs, unreachable_pub, unused_qualifications)]
pub mod store {
    tonic::include_proto!("concord.store.v1");
}

/// Descriptors of everything above, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/concord.bin"));

/// Request metadata that carries the global transaction id from the initiator to the services it calls.
pub const GTID_METADATA: &str = "concord-gtid";
