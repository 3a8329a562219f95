//! Two coordinators, one of which carries a burden: what that costs the others' transactions.

use std::path::PathBuf;

use anyhow::Result;
use concord_proto::v1::{BranchKind, BranchRequest, ExecuteRequest};
use concord_sandbox::Service;
use tempfile::TempDir;

use crate::contest::contest;
use crate::load::{Load, Shape, Target, through};
use crate::outcome::{Bound, Outcome};
use crate::processor_time::Watched;
use crate::service;
use crate::setup::{MANY, Setup};

/// Throughput and p99 must not change by more than 15 %.
pub(super) const FLAT_THROUGHPUT: Bound = Bound::AtLeast(0.85);
const FLAT_P99: Bound = Bound::AtMost(1.15);

/// The name of the burdened one's directory.
const BURDENED: &str = "burdened";

/// Fields are dropped in this order.
pub(super) struct SideBySide {
    /// Attached to both coordinators.
    participants: [Service; 2],
    pub(super) burdened: Service,
    alone: Service,
    directory: TempDir,
}

impl SideBySide {
    /// Starts everything.
    ///
    /// # Errors
    /// When something does not start.
    pub(super) async fn set_up() -> Result<SideBySide> {
        SideBySide::set_up_in(Setup::directory()?, &[]).await
    }

    /// Starts everything, and the burdened coordinator with more arguments, on what may be in its directory already.
    ///
    /// # Errors
    /// When something does not start.
    pub(super) async fn set_up_in(directory: TempDir, arguments: &[&str]) -> Result<SideBySide> {
        let [burdened, alone] = [BURDENED, "alone"].map(|name| directory.path().join(name));
        [&burdened, &alone].into_iter().try_for_each(std::fs::create_dir_all)?;
        let burdened = service::coordinator_with(&burdened, arguments).await?;
        let alone = service::coordinator(&alone).await?;
        let both = [&burdened, &alone];
        let noop = async |name| service::noop(name, directory.path(), &both).await;
        let participants = [noop("noop-1").await?, noop("noop-2").await?];
        Ok(SideBySide { participants, burdened, alone, directory })
    }

    /// Where the burdened coordinator will have its data.
    pub(super) fn data_of_burdened(directory: &TempDir) -> PathBuf {
        service::data_of_coordinator(&directory.path().join(BURDENED))
    }

    pub(super) fn directory(&self) -> &TempDir {
        &self.directory
    }

    /// A no-op transaction with so many branches.
    pub(super) fn request(&self, branches: usize) -> ExecuteRequest {
        let branch = |participant: &Service| branch(&participant.url());
        let branches = self.participants.iter().cycle().take(branches).map(branch).collect();
        ExecuteRequest { branches, ..ExecuteRequest::default() }
    }

    /// Throughput and p99 of the burdened one against the other's.
    ///
    /// # Errors
    /// Those of the callers.
    pub(super) async fn compare(&self, setup: &Setup, name: &str) -> Result<[Outcome; 2]> {
        let request = self.request(2);
        self.compare_requests(setup, name, move || request.clone()).await
    }

    /// The same with these requests.
    ///
    /// # Errors
    /// Those of the callers.
    pub(super) async fn compare_requests(
        &self,
        setup: &Setup,
        name: &str,
        request: impl Fn() -> ExecuteRequest + Clone + Send + Sync + 'static,
    ) -> Result<[Outcome; 2]> {
        let callers =
            |name: &str, coordinator: &Service| through(name, &coordinator.url(), MANY, request.clone());
        let mut burdened = callers("burdened", &self.burdened)?;
        let mut alone = callers("alone", &self.alone)?;
        let load = Load { shape: Shape::Closed(MANY), span: setup.span() };
        let targets: [&mut dyn Target; 2] = [&mut burdened, &mut alone];
        let watched = Watched::new([
            ("burdened", vec![self.burdened.pid()]),
            ("alone", vec![self.alone.pid()]),
            ("participants", self.participants.iter().map(Service::pid).collect()),
        ]);
        let [burdened, alone] = contest(setup, name, targets, load, setup.rounds(), &watched).await?;
        let times = format!("burdened {}; alone {}", burdened.processor_time(), alone.processor_time());
        Ok([
            Outcome::throughput(name, &burdened, &alone)?
                .at(MANY)
                .ratio_wanted(FLAT_THROUGHPUT)
                .detail(&times),
            Outcome::latency(&format!("{name}, p99"), 0.99, &burdened, &alone)?
                .at(MANY)
                .ratio_wanted(FLAT_P99),
        ])
    }
}

/// A branch at a participant that does nothing.
pub(super) fn branch(participant: &str) -> BranchRequest {
    BranchRequest {
        kind: BranchKind::Tcc.into(),
        participant: participant.to_owned(),
        action: "nothing".into(),
        payload: Vec::from(*b"{\"sku\":\"T00101\",\"quantity\":2}").into(),
    }
}
