//! How each scenario goes, up to the death.

use std::time::Duration;

use anyhow::{Result, ensure};
use concord_crash_points::Order;
use concord_proto::v1::{
    BeginRequest, BranchKind, CommitRequest, ExecuteRequest, Grade, ListRequest, ParkRequest, ResolveRequest,
    RetryRequest, RollbackRequest, TransactionState, Wait,
};
use concord_tests::{Entry, Fault, Outcome, Verb, until};

use super::attempt::{Attempt, outcome_of};
use super::case::Role;
use super::scenario::{End, Kinds, PURGE_RETENTION_MS, Scenario};
use super::stage::{BALANCE, Stage};

/// What a branch is called with: in phase one, and to end it.
fn phase_one(kind: BranchKind) -> Verb {
    if kind == BranchKind::Tcc { Verb::Try } else { Verb::Prepare }
}

fn commit(kind: BranchKind) -> Verb {
    if kind == BranchKind::Tcc { Verb::Confirm } else { Verb::Commit }
}

/// More than the account has is refused.
fn amount(end: End) -> i64 {
    if end == End::Rollback { 2 * BALANCE } else { 1 }
}

impl Scenario {
    /// Whether participants are told to do something wrong.
    pub(super) fn has_faults(self) -> bool {
        !matches!(
            self,
            Scenario::Execute(..) | Scenario::Strict(..) | Scenario::Driven(..) | Scenario::OnePhase { .. }
        )
    }
}

impl Stage {
    /// Begins, and goes on as far as waiting is needed. `order`: for scenarios that arm at a restart.
    pub(super) async fn start(&mut self, order: Option<&Order>) -> Result<Vec<Attempt>> {
        let attempt = match self.scenario {
            Scenario::Execute(kinds, end) => self.execute(kinds, end),
            Scenario::Strict(kinds, end) => self.execute_with(kinds, end, Grade::Strict),
            Scenario::Driven(kinds, end) => self.drive(kinds, end).await,
            Scenario::OnePhase { driven: false, end } => self.execute_one(end),
            Scenario::OnePhase { driven: true, end } => self.drive_one(end).await,
            Scenario::Overtaken(kinds) => {
                self.world.two.fault(phase_one(kinds.both()[1]), Fault::Unavailable).await?;
                self.execute(kinds, End::Rollback)
            }
            Scenario::CoordinatorAgain(kinds, end) => self.coordinator_again(kinds, end, order).await?,
            Scenario::ParticipantAgain(kinds, end) => self.participant_again(kinds, end, order).await?,
            Scenario::ParticipantSweeps(end) | Scenario::CoordinatorSweeps(end) => {
                self.cut_off_second(end).await?
            }
            Scenario::Operated { resolved } => self.operate(resolved).await?,
            Scenario::Purged => return self.purge().await,
        };
        Ok(vec![attempt])
    }

    /// Whether nothing more will happen by itself.
    pub(super) async fn is_over(&mut self, attempts: &[Attempt]) -> Result<bool> {
        if !attempts.iter().all(Attempt::is_answered) {
            return Ok(false);
        }
        // It may be on its way up.
        let Ok(status) = self.world.coordinator.status().await else { return Ok(false) };
        let second = &self.world.banks()[1];
        match self.scenario {
            Scenario::ParticipantSweeps(_) => Ok(second.in_doubt(status.cluster_id).await? == 0),
            Scenario::Purged => Ok(status.live_transactions == 0 && second.count(OLD_ROWS).await? == 0),
            _ => Ok(status.live_transactions == 0),
        }
    }

    /// Both sides, run by the coordinator.
    pub(super) fn execute(&mut self, kinds: Kinds, end: End) -> Attempt {
        self.execute_with(kinds, end, Grade::EarlyVote)
    }

    fn execute_with(&mut self, kinds: Kinds, end: End, grade: Grade) -> Attempt {
        let request = ExecuteRequest { grade: grade.into(), ..self.request(kinds, end) };
        Attempt::execute(self.world.coordinator.api(), request, [true; 2])
    }

    /// A transfer, of which the initiator is told as soon as it can be.
    pub(super) fn request(&mut self, kinds: Kinds, end: End) -> ExecuteRequest {
        let account = self.account();
        let (name, request) = self.world.transfer_by(kinds.both(), account, amount(end));
        self.note(&name);
        let timeout_ms = self.scenario.timeout_ms();
        ExecuteRequest { timeout_ms, wait: Wait::Decided.into(), ..request }
    }

    /// The second side alone.
    fn execute_one(&mut self, end: End) -> Attempt {
        let (name, request) = self.world.transfer(1, amount(end));
        self.note(&name);
        let mut branch = request.branches[1].clone();
        branch.action = one_action(end).into();
        let request =
            ExecuteRequest { timeout_ms: self.scenario.timeout_ms(), branches: vec![branch], ..request };
        Attempt::execute(self.world.coordinator.api(), request, [false, true])
    }

    /// The initiator begins, has the services join, and commits or rolls back; where something goes wrong, it rolls
    /// back.
    async fn drive(&mut self, kinds: Kinds, end: End) -> Attempt {
        let (name, _) = self.world.transfer(1, 1);
        let Some(gtid) = self.begin(&name).await else { return nothing(name) };
        let entry = Entry { transfer: name.clone(), account: 1, amount: 1 };
        let [from, to] = concord_tests::actions(kinds.both());
        let joined = self.world.one.join(&gtid, from, &entry).await.is_ok()
            && self.world.two.join(&gtid, to, &entry).await.is_ok();
        self.conclude(name, [true; 2], gtid, if joined { end } else { End::Rollback })
    }

    /// The same with the second side alone, which is not asked to vote.
    async fn drive_one(&mut self, end: End) -> Attempt {
        let (name, _) = self.world.transfer(1, 0);
        let Some(gtid) = self.begin(&name).await else { return nothing(name) };
        let entry = Entry { transfer: name.clone(), account: 1, amount: 0 };
        let joined = self.world.two.open(&gtid, one_action(End::Commit), &entry).await.is_ok();
        self.conclude(name, [false, true], gtid, if joined { end } else { End::Rollback })
    }

    async fn begin(&mut self, name: &str) -> Option<String> {
        self.note(name);
        let timeout_ms = self.scenario.timeout_ms();
        let request = BeginRequest { name: name.to_owned(), timeout_ms, ..BeginRequest::default() };
        Some(self.world.coordinator.api().begin(request).await.ok()?.into_inner().gtid)
    }

    fn conclude(&self, name: String, takes_part: [bool; 2], gtid: String, end: End) -> Attempt {
        let mut api = self.world.coordinator.api();
        Attempt::of(name, takes_part, async move {
            outcome_of(match end {
                End::Commit => {
                    let request = CommitRequest { gtid, ..CommitRequest::default() };
                    api.commit(request).await.map(|answer| answer.into_inner().transaction)
                }
                End::Rollback => {
                    let request = RollbackRequest { gtid, ..RollbackRequest::default() };
                    api.rollback(request).await.map(|answer| answer.into_inner().transaction)
                }
            })
        })
    }

    /// The coordinator dies when one side has voted and its beginning is on disk, or when both sides are being told to
    /// commit; and is started again.
    async fn coordinator_again(&mut self, kinds: Kinds, end: End, order: Option<&Order>) -> Result<Attempt> {
        let [one, two] = kinds.both();
        let attempt = match end {
            End::Rollback => {
                let verb = phase_one(two);
                let records = self.world.coordinator.status().await?.log_records;
                let before = self.world.two.calls(verb).await?;
                self.world.two.fault(verb, Fault::Gate).await?;
                let attempt = self.execute(kinds, End::Commit);
                self.world.two.called(verb, before).await?;
                until("the first side has voted, and the beginning is on disk", async || {
                    let on_disk = self.world.coordinator.status().await?.log_records > records;
                    Ok((on_disk && self.has_voted(0).await?).then_some(()))
                })
                .await?;
                attempt
            }
            End::Commit => {
                let (first, second) = (commit(one), commit(two));
                let before = [self.world.one.calls(first).await?, self.world.two.calls(second).await?];
                self.world.one.fault(first, Fault::Unavailable).await?;
                self.world.two.fault(second, Fault::Unavailable).await?;
                let attempt = self.execute(kinds, End::Commit);
                self.world.one.called(first, before[0]).await?;
                self.world.two.called(second, before[1]).await?;
                attempt
            }
        };
        self.world.coordinator.kill9()?;
        for verb in Verb::ALL {
            self.world.one.fault(verb, Fault::None).await?;
            self.world.two.fault(verb, Fault::None).await?;
        }
        if let Some(order) = order {
            self.world.coordinator.crash_at_start(order.to_string());
        }
        self.world.coordinator.launch()?;
        Ok(attempt)
    }

    /// Whether a side holds money, or has prepared.
    async fn has_voted(&self, side: usize) -> Result<bool> {
        let bank = &self.world.banks()[side];
        let cluster = self.world.coordinator.status().await?.cluster_id;
        Ok(bank.reserved().await? != (0, 0, 0) || bank.in_doubt(cluster).await? > 0)
    }

    /// The second participant dies when it has voted and not told; and is started again. Only then the first refuses,
    /// if it does.
    async fn participant_again(&mut self, kinds: Kinds, end: End, order: Option<&Order>) -> Result<Attempt> {
        let [one, two] = kinds.both();
        let vote = if two == BranchKind::Tcc { "tcc/try/committed" } else { "xa/prepare/after" };
        self.world.two.ask(&format!("crash-at {vote}")).await?;
        if end == End::Rollback {
            self.world.one.fault(phase_one(one), Fault::Gate).await?;
        }
        let attempt = self.execute(kinds, end);
        self.world.two.ended().await?;
        match order {
            None => self.world.two.restart().await?,
            Some(order) => {
                let started = self.world.two.restart_to_crash(&order.to_string()).await;
                ensure!(started.is_ok() || self.died(Role::Two).await?, "{started:?}");
            }
        }
        self.world.one.fault(phase_one(one), Fault::None).await?;
        Ok(attempt)
    }

    async fn died(&mut self, role: Role) -> Result<bool> {
        until("it has died", async || Ok(self.is_gone(role)?.then_some(true))).await
    }

    /// The second participant votes, and does not hear how it ends.
    async fn cut_off_second(&mut self, end: End) -> Result<Attempt> {
        if end == End::Commit {
            self.world.two.fault(Verb::Commit, Fault::Unavailable).await?;
            return Ok(self.execute(Kinds::Xa, End::Commit));
        }
        self.world.two.fault(Verb::Rollback, Fault::Unavailable).await?;
        self.world.one.fault(Verb::Prepare, Fault::Gate).await?;
        let attempt = self.execute(Kinds::Xa, End::Rollback);
        // Else it might be rolled back before it has voted.
        until("the second side has voted", async || {
            Ok((self.is_any_gone()? || self.has_voted(1).await?).then_some(()))
        })
        .await?;
        if !self.is_gone(Role::One)? {
            self.world.one.fault(Verb::Prepare, Fault::None).await?;
        }
        Ok(attempt)
    }

    /// An operator parks a branch that does not hear how it ends; then has it retried, or says that it has committed.
    async fn operate(&mut self, resolved: bool) -> Result<Attempt> {
        self.world.two.fault(Verb::Commit, Fault::Unavailable).await?;
        let attempt = self.execute_and_park();
        until("the branch is parked", async || {
            Ok((attempt.is_answered() || self.is_any_gone()?).then_some(()))
        })
        .await?;
        // Who dies later makes the rest fail, as it would an operator's.
        if self.is_any_gone()? {
            return Ok(attempt);
        }
        if !resolved {
            self.world.two.fault(Verb::Commit, Fault::None).await?;
        }
        for gtid in self.parked().await.unwrap_or_default() {
            let mut operator = self.world.coordinator.operator();
            let (who, outcome) = ("ada".to_owned(), TransactionState::Committed.into());
            if resolved {
                let (branch_id, reason) = (2, "its own recovery will commit it".to_owned());
                let order = ResolveRequest { gtid, branch_id, outcome, operator: who, reason };
                operator.resolve(order).await.ok();
            } else {
                operator.retry(RetryRequest { gtid, operator: who }).await.ok();
            }
        }
        Ok(attempt)
    }

    fn execute_and_park(&mut self) -> Attempt {
        let request = self.request(Kinds::Xa, End::Commit);
        let name = request.name.clone();
        let (mut api, mut operator) = (self.world.coordinator.api(), self.world.coordinator.operator());
        Attempt::of(name, [true; 2], async move {
            let answer = api.execute(request).await.map(tonic::Response::into_inner);
            let outcome = Outcome::of(&answer);
            if let Ok(Some(transaction)) = answer.map(|answer| answer.transaction) {
                let gtid = transaction.gtid;
                let order = ParkRequest { gtid, operator: "ada".into(), ..ParkRequest::default() };
                operator.park(order).await.ok();
            }
            outcome
        })
    }

    /// The transactions that wait for an operator.
    pub(super) async fn parked(&self) -> Result<Vec<String>> {
        let request = ListRequest { parked_only: true, ..ListRequest::default() };
        let parked = self.world.coordinator.api().list(request).await?.into_inner().transactions;
        Ok(parked.into_iter().map(|transaction| transaction.gtid).collect())
    }

    /// One transaction, and another when the rows of the first are old enough to be purged.
    async fn purge(&mut self) -> Result<Vec<Attempt>> {
        let mut attempts = vec![self.execute(Kinds::Mixed, End::Commit)];
        until("the first one has ended", async || {
            let status = self.world.coordinator.status().await;
            let ended = attempts[0].is_answered() && status.is_ok_and(|status| status.live_transactions == 0);
            Ok((self.is_any_gone()? || ended).then_some(()))
        })
        .await?;
        // Rows are as old as time has passed between two transactions.
        tokio::time::sleep(Duration::from_millis(PURGE_RETENTION_MS + 100)).await;
        attempts.push(self.execute(Kinds::Mixed, End::Commit));
        Ok(attempts)
    }
}

/// An action that moves no money, or one that is refused.
fn one_action(end: End) -> &'static str {
    if end == End::Commit { "insert" } else { "debit" }
}

/// Its initiator could not even begin.
fn nothing(name: String) -> Attempt {
    Attempt::of(name, [true; 2], std::future::ready(Outcome::Unknown))
}

/// How many rows of the barrier table are to be purged: [`PURGE_RETENTION_MS`] older than the newest.
const OLD_ROWS: &str = "SELECT COUNT(*) FROM concord_barrier \
    WHERE created_at < (SELECT MAX(created_at) FROM concord_barrier) - INTERVAL 1 SECOND";
