//! Requests at a participant's door.

use std::time::Duration;

use bolero::{TypeGenerator, check};
use concord_participant::door;
use concord_proto::status::reason;
use concord_proto::v1::{
    BranchContext, CancelRequest, CommitBranchRequest, ConfirmRequest, PrepareRequest, RollbackBranchRequest,
    TryRequest, Work, WorkRequest,
};
use concord_protocol::ClusterId;
use concord_xa::{RawXid, Xid};
use prost::Message;
use tonic::Code;

use crate::damage::Damage;
use crate::gtids::GtidText;

const PAYLOAD_MAX_BYTES: usize = 100;

#[derive(Debug, Clone, TypeGenerator)]
struct Call {
    method: u8,
    context: Option<Context>,
    work: Option<(Action, Vec<u8>)>,
    remaining_ms: u32,
    flag: bool,
    /// The cluster that the participant belongs to. There are few.
    known: Option<u8>,
    damage: Damage,
}

#[derive(Debug, Clone, TypeGenerator)]
struct Context {
    gtid: GtidText,
    branch_id: BranchNumber,
    /// None: the one that the participant belongs to.
    cluster: Option<u8>,
}

#[derive(Debug, Clone, TypeGenerator)]
enum BranchNumber {
    Small(u8),
    Any(u32),
}

#[derive(Debug, Clone, TypeGenerator)]
enum Action {
    Name(String),
    Long(u8),
}

fn cluster(number: u8) -> u64 {
    u64::from(number % 4)
}

/// What the door looks at.
struct Parts {
    branch: Option<BranchContext>,
    work: Option<Work>,
    remaining_ms: u32,
}

impl Call {
    fn bytes(&self) -> Vec<u8> {
        let branch = self.context.as_ref().map(|context| BranchContext {
            gtid: context.gtid.text(),
            branch_id: match context.branch_id {
                BranchNumber::Small(number) => u32::from(number % 8),
                BranchNumber::Any(number) => number,
            },
            cluster_id: context.cluster.or(self.known).map_or(1, cluster),
        });
        let work = self.work.as_ref().map(|(action, payload)| Work {
            action: match action {
                Action::Name(name) => name.clone(),
                Action::Long(length) => "a".repeat(usize::from(*length)),
            },
            payload: payload.clone().into(),
        });
        let (remaining_ms, flag) = (self.remaining_ms, self.flag);
        let bytes = match self.method % 7 {
            0 => WorkRequest { branch, work, repeated_call: flag, remaining_ms }.encode_to_vec(),
            1 => PrepareRequest { branch, work, repeated_call: flag, remaining_ms }.encode_to_vec(),
            2 => CommitBranchRequest { branch, one_phase: flag, work, remaining_ms }.encode_to_vec(),
            3 => RollbackBranchRequest { branch }.encode_to_vec(),
            4 => TryRequest { branch, work, remaining_ms }.encode_to_vec(),
            5 => ConfirmRequest { branch, work }.encode_to_vec(),
            _ => CancelRequest { branch, work }.encode_to_vec(),
        };
        self.damage.apply(bytes)
    }

    /// None: not a message.
    fn parts(&self) -> Option<Parts> {
        let bytes = self.bytes();
        let bytes = bytes.as_slice();
        let (branch, work, remaining_ms) = match self.method % 7 {
            0 => decode(bytes, |one: WorkRequest| (one.branch, one.work, one.remaining_ms)),
            1 => decode(bytes, |one: PrepareRequest| (one.branch, one.work, one.remaining_ms)),
            2 => decode(bytes, |one: CommitBranchRequest| (one.branch, one.work, one.remaining_ms)),
            3 => decode(bytes, |one: RollbackBranchRequest| (one.branch, None, 0)),
            4 => decode(bytes, |one: TryRequest| (one.branch, one.work, one.remaining_ms)),
            5 => decode(bytes, |one: ConfirmRequest| (one.branch, one.work, 0)),
            _ => decode(bytes, |one: CancelRequest| (one.branch, one.work, 0)),
        }?;
        Some(Parts { branch, work, remaining_ms })
    }
}

fn decode<M: Message + Default, T>(bytes: &[u8], parts: impl Fn(M) -> T) -> Option<T> {
    M::decode(bytes).ok().map(parts)
}

/// What passes is an XID of ours, and work within its limits; what does not is the caller's mistake, and says so.
#[test]
fn what_passes_is_within_its_limits() {
    check!().with_type::<Call>().for_each(|call| {
        let Some(Parts { branch, work, remaining_ms }) = call.parts() else { return };
        match door::xid(branch.clone(), call.known.map(|known| ClusterId(cluster(known)))) {
            Ok(xid) => {
                let branch = branch.unwrap();
                assert_eq!(xid.gtid.to_string(), branch.gtid.to_ascii_lowercase());
                assert_eq!((xid.branch.0, xid.cluster.0), (branch.branch_id, branch.cluster_id));
                assert_ne!(xid.branch.0, 0);
                assert!(call.known.is_none_or(|known| cluster(known) == xid.cluster.0));
                // The database will know it again.
                assert_eq!(Xid::parse(&RawXid::from(&xid)), Some(xid));
            }
            Err(status) => match status.code() {
                Code::FailedPrecondition => assert_eq!(reason(&status).as_deref(), Some("WRONG_CLUSTER")),
                _ => assert_is_invalid(&status),
            },
        }
        let given = work.clone();
        match door::job(work, remaining_ms, PAYLOAD_MAX_BYTES) {
            Ok(job) => {
                assert_eq!(job.is_some(), given.is_some());
                let Some(job) = job else { return };
                assert!((1..=128).contains(&job.action.len()) && job.payload.len() <= PAYLOAD_MAX_BYTES);
                assert!(job.remaining > Duration::ZERO);
            }
            Err(status) => assert_is_invalid(&status),
        }
    });
}

fn assert_is_invalid(status: &tonic::Status) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert_eq!(reason(status).as_deref(), Some("INVALID_ARGUMENT"));
    assert!(status.message().len() < 200, "{status}");
}
