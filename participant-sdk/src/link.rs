//! The way to the coordinator.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use concord_crash_points::crash_point;
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::{
    BranchKind, InquireRequest, Outcome, RegisterBranchRequest, ReportVoteRequest, Vote,
};
use concord_proto::{Coordinators, TraceContext};
use concord_protocol::{BranchId, ClusterId, Gtid};
use concord_xa::Xid;
use tonic::{Code, Response, Status};

use crate::trace::traced;

/// Gtids in one question to the coordinator.
pub(crate) const INQUIRE_MAX: usize = 1_000;

/// The coordinator, and this participant as it knows it.
#[derive(Debug)]
pub(crate) struct Link {
    coordinators: Coordinators,
    client: CoordinatorClient<Coordinators>,
    /// Where this participant answers, as the coordinator knows it.
    address: String,
    /// Of the coordinator; 0 until it has told.
    cluster: AtomicU64,
}

/// What the coordinator says of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    /// On every branch: the coordinator will not call about it again.
    pub(crate) ended: bool,
}

/// What a branch that is being registered does.
#[derive(Debug, Clone)]
pub(crate) enum Registration {
    Xa,
    Tcc { action: String, payload: Bytes },
}

impl Link {
    pub(crate) fn new(coordinators: Coordinators, address: String) -> Self {
        let client = CoordinatorClient::new(coordinators.clone());
        Link { client, coordinators, address, cluster: AtomicU64::new(0) }
    }

    pub(crate) fn coordinators(&self) -> &Coordinators {
        &self.coordinators
    }

    /// Calls one coordinator, and where it does not answer the others, one after the other. All calls here may be
    /// repeated.
    async fn call<T, F>(&self, call: impl Fn(CoordinatorClient<Coordinators>) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        for _ in 1..self.coordinators.places().len() {
            match call(self.client.clone()).await {
                Err(status) if status.code() == Code::Unavailable => {
                    tracing::debug!(%status, "a coordinator does not answer; asking the next one");
                }
                answer => return answer.map(Response::into_inner),
            }
        }
        call(self.client.clone()).await.map(Response::into_inner)
    }

    /// Where this participant answers, as the coordinator knows it.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        match self.cluster.load(Ordering::Relaxed) {
            0 => None,
            id => Some(ClusterId(id)),
        }
    }

    /// What the coordinator says of each transaction, in the order asked. Also learns which cluster it is. At most
    /// [`INQUIRE_MAX`].
    pub(crate) async fn inquire(&self, gtids: &[Gtid]) -> Result<Vec<Verdict>, Status> {
        self.inquire_branches(gtids, &[]).await
    }

    /// As [`Link::inquire`], each for one branch: the verdict of a branch may differ from its transaction's.
    pub(crate) async fn inquire_branches(
        &self,
        gtids: &[Gtid],
        branches: &[BranchId],
    ) -> Result<Vec<Verdict>, Status> {
        let request = InquireRequest {
            gtids: gtids.iter().map(Gtid::to_string).collect(),
            branch_ids: branches.iter().map(|branch| branch.0).collect(),
        };
        crash_point!("participant/inquire/before");
        let answer = self
            .call(|mut client| {
                let request = request.clone();
                async move { client.inquire(request).await }
            })
            .await?;
        crash_point!("participant/inquire/after");
        self.cluster.store(answer.cluster_id, Ordering::Relaxed);
        // An answer of another length is an answer to something else.
        if answer.outcomes.len() != gtids.len() {
            let message = "Inquire answered with another number of outcomes than asked for";
            return Err(Status::internal(message));
        }
        // A coordinator that does not say so has not said that it has ended.
        let ended = answer.ended.iter().copied().chain(std::iter::repeat(false));
        Ok(answer.outcomes().zip(ended).map(|(outcome, ended)| Verdict { outcome, ended }).collect())
    }

    /// Joins a transaction. Answers the branch's name and how long the transaction still has.
    pub(crate) async fn register(
        &self,
        gtid: Gtid,
        key: String,
        registration: Registration,
        trace: Option<&TraceContext>,
    ) -> Result<(Xid, Duration), Status> {
        let (kind, action, payload) = match registration {
            Registration::Xa => (BranchKind::Xa, String::new(), Bytes::new()),
            Registration::Tcc { action, payload } => (BranchKind::Tcc, action, payload),
        };
        let request = RegisterBranchRequest {
            gtid: gtid.to_string(),
            kind: kind.into(),
            participant: self.address.clone(),
            registration_key: key,
            action,
            payload,
        };
        crash_point!("participant/register/before");
        let answer = self
            .call(|mut client| {
                let request = traced(request.clone(), trace);
                async move { client.register_branch(request).await }
            })
            .await?;
        crash_point!("participant/register/after");
        let xid = Xid { cluster: ClusterId(answer.cluster_id), gtid, branch: BranchId(answer.branch_id) };
        Ok((xid, Duration::from_millis(answer.remaining_ms.into())))
    }

    pub(crate) async fn report(
        &self,
        xid: &Xid,
        vote: Vote,
        why: &str,
        trace: Option<&TraceContext>,
    ) -> Result<(), Status> {
        let request = ReportVoteRequest {
            gtid: xid.gtid.to_string(),
            branch_id: xid.branch.0,
            vote: vote.into(),
            reason: crate::service::cut(why.to_owned()),
        };
        crash_point!("participant/report/before");
        self.call(|mut client| {
            let request = traced(request.clone(), trace);
            async move { client.report_vote(request).await }
        })
        .await?;
        crash_point!("participant/report/after");
        Ok(())
    }
}
