//! A coordinator whose participants are absent, and requests to it.

use concord_proto::v1::*;
pub(super) use concord_tests::refusal;
use concord_tests::{Coordinator, CoordinatorOptions, Programs};
use tempfile::TempDir;
pub(super) use tonic::Code;
use tonic::Request;

pub(super) const PROGRAMS: Programs = concord_tests::programs!();

/// On the allow-list, and nobody listens there: the port is not one that programs are given.
pub(super) const ABSENT: &str = "http://127.0.0.1:1";

pub(super) type Refusal = (Code, String);

pub(super) fn refused(code: Code, reason: &str) -> Refusal {
    (code, reason.to_owned())
}

/// What every value outside its limits gets.
pub(super) fn invalid() -> Refusal {
    refused(Code::InvalidArgument, "INVALID_FIELD")
}

/// A coordinator in a directory of its own. The directory goes last.
pub(super) struct Alone {
    pub(super) coordinator: Coordinator,
    _directory: TempDir,
}

impl Alone {
    pub(super) async fn start() -> Alone {
        Alone::start_with(CoordinatorOptions::new()).await
    }

    pub(super) async fn start_with(options: CoordinatorOptions) -> Alone {
        let directory = TempDir::with_prefix("concord-bad-input-").unwrap();
        let coordinator = Coordinator::start(PROGRAMS, directory.path(), options).await.unwrap();
        Alone { coordinator, _directory: directory }
    }

    pub(super) async fn begin(&self) -> String {
        self.coordinator.api().begin(BeginRequest::default()).await.unwrap().into_inner().gtid
    }

    pub(super) async fn join(&self, gtid: &str, key: &str) -> u32 {
        let request = register(gtid, ABSENT, key);
        self.coordinator.api().register_branch(request).await.unwrap().into_inner().branch_id
    }

    pub(super) async fn vote(&self, gtid: &str, branch_id: u32, vote: Vote) -> Result<(), tonic::Status> {
        let request =
            ReportVoteRequest { gtid: gtid.into(), branch_id, vote: vote.into(), reason: "".into() };
        self.coordinator.api().report_vote(request).await.map(drop)
    }

    /// Two branches that have read only: it can be committed with nobody there.
    pub(super) async fn ready_to_commit(&self) -> String {
        let gtid = self.begin().await;
        for key in ["a", "b"] {
            let branch = self.join(&gtid, key).await;
            self.vote(&gtid, branch, Vote::ReadOnly).await.unwrap();
        }
        gtid
    }

    pub(super) async fn commit(&self, gtid: &str) -> Result<Transaction, tonic::Status> {
        let request = CommitRequest { gtid: gtid.into(), ..Default::default() };
        self.coordinator.api().commit(request).await.map(|answer| answer.into_inner().transaction.unwrap())
    }

    /// Waits for the decision only: nobody is there who could roll back.
    pub(super) async fn rollback(&self, gtid: &str) -> Result<Transaction, tonic::Status> {
        let request = RollbackRequest { gtid: gtid.into(), wait: Wait::Decided.into(), ..Default::default() };
        self.coordinator.api().rollback(request).await.map(|answer| answer.into_inner().transaction.unwrap())
    }

    pub(super) async fn execute(&self, request: ExecuteRequest) -> Result<Transaction, tonic::Status> {
        let answer = self.coordinator.api().execute(Request::new(request)).await;
        answer.map(|answer| answer.into_inner().transaction.unwrap())
    }

    /// Nothing was begun, nothing called, nothing written, nothing is left.
    pub(super) async fn untouched(&self) {
        let status = self.coordinator.status().await.unwrap();
        let counts = (status.begun, status.calls, status.log_records, status.live_transactions);
        assert_eq!(counts, (0, 0, 0, 0), "begun, calls, records, live");
    }
}

pub(super) fn register(gtid: &str, participant: &str, key: &str) -> RegisterBranchRequest {
    RegisterBranchRequest {
        gtid: gtid.into(),
        kind: BranchKind::Xa.into(),
        participant: participant.into(),
        registration_key: key.into(),
        ..Default::default()
    }
}

pub(super) fn branch() -> BranchRequest {
    BranchRequest {
        kind: BranchKind::Xa.into(),
        participant: ABSENT.into(),
        action: "debit".into(),
        payload: Default::default(),
    }
}

/// Waits for the decision only: nobody is there who could roll back.
pub(super) fn execute(branches: Vec<BranchRequest>) -> ExecuteRequest {
    ExecuteRequest { branches, wait: Wait::Decided.into(), ..ExecuteRequest::default() }
}
