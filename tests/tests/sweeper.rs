//! The coordinator's own sweeper: it ends what a dead participant has left behind, and touches nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use anyhow::{Context as _, Result, ensure};
use concord_proto::v1::*;
use concord_protocol::{BranchId, ClusterId, Epoch, Gtid};
use concord_sandbox::Flavor;
use concord_tests::{
    Bank, CoordinatorOptions, Entry, Fault, Outcome, Pair, ParticipantOptions, Programs, Transfer, Verb,
    World, WorldOptions, until,
};
use concord_xa::{Database, Options};
use mysql_async::prelude::Queryable as _;

const PROGRAMS: Programs = concord_tests::programs!();

/// The first account that foreign branches write to.
const ACCOUNT: u32 = 10;
/// Long enough that nothing of this kind happens in a test.
const NEVER_MS: u64 = 3_600_000;

concord_tests::on_both!(
    commits_what_a_dead_participant_left,
    rolls_back_what_a_dead_participant_left,
    rolls_back_what_is_on_no_record,
    leaves_an_undecided_branch_alone,
    leaves_foreign_branches_alone,
    waits_for_the_safety_interval,
    says_what_is_wrong_with_a_resource,
);

/// A world whose coordinator reaches both databases; its participants do not recover by themselves.
struct Scene {
    world: World,
    _pair: Pair,
}

impl Scene {
    async fn set(flavor: Flavor, coordinator: CoordinatorOptions) -> Result<Scene> {
        let pair = concord_tests::pair(flavor).await?;
        let banks = pair.banks(3, 1_000).await?;
        let participant = ParticipantOptions {
            recovery_interval_ms: NEVER_MS,
            recovery_safety_ms: NEVER_MS,
            ..ParticipantOptions::default()
        };
        let options = WorldOptions { coordinator, participant, sweeper: true, ..WorldOptions::default() };
        Ok(Scene { world: World::start(PROGRAMS, banks, options).await?, _pair: pair })
    }

    async fn resources(&self) -> Result<Vec<Resource>> {
        let answer = self.world.coordinator.operator().list_resources(ListResourcesRequest {}).await?;
        Ok(answer.into_inner().resources)
    }

    async fn in_doubt(&self) -> Result<Vec<InDoubtBranch>> {
        let answer = self.world.coordinator.operator().list_in_doubt(ListInDoubtRequest::default()).await?;
        Ok(answer.into_inner().branches)
    }

    /// Waits until every resource has been swept so many more times, each from beginning to end.
    async fn swept(&self, times: usize) -> Result<()> {
        // A sweep that was under way at the beginning counts for nothing.
        for _ in 0..=times {
            let before = self.resources().await?;
            until("every resource is swept again", async || {
                let now = self.resources().await?;
                let again = |(one, other): (&Resource, &Resource)| one.swept_at != other.swept_at;
                Ok(before.iter().zip(&now).all(again).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    async fn get(&self, gtid: &str) -> Result<Transaction> {
        let request = GetRequest { gtid: gtid.to_owned() };
        let answer = self.world.coordinator.api().get(request).await?.into_inner();
        answer.transaction.context("Get answers with the transaction")
    }

    async fn begin(&self, timeout_ms: u32) -> Result<String> {
        let request = BeginRequest { timeout_ms, ..BeginRequest::default() };
        Ok(self.world.coordinator.api().begin(request).await?.into_inner().gtid)
    }
}

fn entry(transfer: &str, amount: i64) -> Entry {
    Entry { transfer: transfer.to_owned(), account: 1, amount }
}

/// Short intervals: whatever is left behind is ended soon.
fn eager() -> CoordinatorOptions {
    CoordinatorOptions::new()
}

/// It never sweeps on its own account within a test.
fn patient() -> CoordinatorOptions {
    CoordinatorOptions::new().set("sweeper.safety_interval_ms", 86_400_000)
}

fn sweeper_ended(transaction: &Transaction) -> Vec<&HistoryEvent> {
    let of_sweeper = |event: &&HistoryEvent| event.kind == "branch_ended" && event.detail.contains("sweeper");
    transaction.history.iter().filter(of_sweeper).collect()
}

/// Its participant died for good after its vote; the transaction was committed.
async fn commits_what_a_dead_participant_left(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor, eager()).await?;
    scene.world.two.fault(Verb::Commit, Fault::ExitBefore).await?;
    let (name, request) = scene.world.transfer(1, 100);
    let (_, answer) = scene.world.spawn(request).answer().await?;
    let transaction = answer?.transaction.context("a transaction")?;
    // Execute waits for phase two: the sweeper has done it.
    ensure!(transaction.state() == TransactionState::Committed, "{transaction:?}");
    scene.world.two.ended().await?;
    scene.world.audit(&[Transfer { name, outcome: Outcome::Committed }]).await?;
    let recorded = scene.get(&transaction.gtid).await?;
    ensure!(sweeper_ended(&recorded).len() == 1, "{:?}", recorded.history);
    ensure!(recorded.branches[1].state() == BranchState::Committed, "{recorded:?}");
    let resources = scene.resources().await?;
    ensure!(resources[1].committed_by_sweeper == 1, "{resources:?}");
    ensure!(resources.iter().all(|one| one.rolled_back_by_sweeper == 0), "{resources:?}");
    Ok(())
}

/// The same, rolled back: the other branch refused.
async fn rolls_back_what_a_dead_participant_left(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor, eager()).await?;
    let gtid = scene.begin(0).await?;
    scene.world.one.join(&gtid, "debit", &entry("left", 100)).await?;
    scene.world.one.kill9()?;
    let refused = scene.world.two.join(&gtid, "credit", &Entry { account: 99, ..entry("left", 100) }).await;
    ensure!(refused.is_err(), "there is no account 99");
    let request = RollbackRequest { gtid: gtid.clone(), ..RollbackRequest::default() };
    let rolled_back = scene.world.coordinator.api().rollback(request).await?.into_inner().transaction;
    let transaction = rolled_back.context("a transaction")?;
    ensure!(transaction.state() == TransactionState::RolledBack, "{transaction:?}");
    scene.world.settled().await?;
    scene.world.conserved().await?;
    ensure!(sweeper_ended(&scene.get(&gtid).await?).len() == 1, "the sweeper has ended it");
    ensure!(scene.resources().await?[0].rolled_back_by_sweeper == 1);
    // Its participant is back: the branch stays ended, and its row is free.
    scene.world.one.restart().await?;
    let (_, request) = scene.world.transfer(1, 100);
    let (after, answer) = scene.world.spawn(request).answer().await?;
    ensure!(after.outcome == Outcome::Committed, "{answer:?}");
    Ok(())
}

/// A branch of an earlier life of the coordinator, of which nothing was written: presumed abort.
async fn rolls_back_what_is_on_no_record(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor, eager()).await?;
    let cluster = scene.world.coordinator.status().await?.cluster_id;
    let epoch = scene.world.coordinator.status().await?.epoch;
    let gtid = Gtid::compose(1_700_000_000_000, Epoch(epoch), 1);
    scene.world.coordinator.kill9()?;
    let bank = scene.world.banks()[0].clone();
    // By hand, as that life's participant would have.
    let database = Database::connect(&bank.url(), Options::default()).await?;
    let mut branch = database.begin(ClusterId(cluster), gtid, BranchId(1)).await?;
    branch.exec("UPDATE account SET balance = balance + 1 WHERE id = 1", ()).await?;
    let vote = branch.prepare(b"").await;
    ensure!(matches!(vote, concord_xa::Vote::Yes(_)), "{vote:?}");
    drop((vote, database));
    ensure!(bank.in_doubt(cluster).await? == 1);
    scene.world.coordinator.restart().await?;
    scene.world.settled().await?;
    scene.world.conserved().await?;
    ensure!(bank.balance(1).await? == 1_000);
    Ok(())
}

/// Prepared, and its transaction neither committed nor rolled back: any doubt wins, however long it takes.
async fn leaves_an_undecided_branch_alone(flavor: Flavor) -> Result<()> {
    let mut scene =
        Scene::set(flavor, CoordinatorOptions::new().set("sweeper.safety_interval_ms", 0)).await?;
    let gtid = scene.begin(60_000).await?;
    scene.world.one.join(&gtid, "debit", &entry("undecided", 100)).await?;
    scene.world.two.join(&gtid, "credit", &entry("undecided", 100)).await?;
    // Nor because its participant is dead.
    scene.world.two.kill9()?;
    scene.swept(3).await?;
    let listed = scene.in_doubt().await?;
    ensure!(listed.len() == 2, "{listed:?}");
    for branch in &listed {
        ensure!(branch.ours && branch.gtid == gtid && branch.verdict == "undecided", "{branch:?}");
    }
    ensure!(scene.resources().await?.iter().all(|one| one.in_doubt_ours == 1));
    let request = CommitRequest { gtid: gtid.clone(), ..CommitRequest::default() };
    let committed = scene.world.coordinator.api().commit(request).await?.into_inner().transaction;
    ensure!(committed.context("a transaction")?.state() == TransactionState::Committed);
    scene.world.settled().await?;
    scene.world.conserved().await?;
    ensure!(scene.world.banks()[1].balance(1).await? == 1_100, "the sweeper has committed the dead one's");
    Ok(())
}

/// Another format id, another cluster, a name that is nearly ours, bytes that are no text.
async fn leaves_foreign_branches_alone(flavor: Flavor) -> Result<()> {
    let scene = Scene::set(flavor, CoordinatorOptions::new().set("sweeper.safety_interval_ms", 0)).await?;
    let cluster = scene.world.coordinator.status().await?.cluster_id;
    let bank = &scene.world.banks()[0];
    let gtid = hex(&Gtid::compose(1, Epoch(0), 1).to_bytes());
    let other = cluster.wrapping_add(1);
    let format = concord_xa::FORMAT_ID;
    let foreign = [
        format!("X'{cluster:016x}{gtid}',X'00000001',1"),
        format!("X'{other:016x}{gtid}',X'00000002',{format}"),
        format!("X'{cluster:016x}{gtid}',X'0000000003',{format}"),
        format!("X'{cluster:016x}{gtid}ff',X'00000004',{format}"),
        // A gtid of version 7.
        format!("X'{cluster:016x}0192f6a08c0070008000040000000001',X'00000005',{format}"),
        "X'fffe00',X'ff',1".to_owned(),
        "'a text','b',7".to_owned(),
    ];
    for (account, name) in (ACCOUNT..).zip(&foreign) {
        bank.run(&format!("INSERT INTO account (id, balance) VALUES ({account}, 0)")).await?;
        // Each with a row in the barrier table, as if it were a branch of ours in this database.
        prepare(bank, name, account, &gtid).await?;
    }
    scene.swept(3).await?;
    let listed = scene.in_doubt().await?;
    ensure!(listed.len() == foreign.len(), "{listed:?}");
    ensure!(
        listed.iter().all(|one| !one.ours && one.gtid.is_empty() && one.verdict.is_empty()),
        "{listed:?}"
    );
    let expected = "0xFFFE00,0xFF,1";
    ensure!(listed.iter().any(|one| one.xid == expected), "{listed:?}");
    let resources = scene.resources().await?;
    ensure!(resources[0].in_doubt_foreign as usize == foreign.len(), "{resources:?}");
    ensure!(resources[0].in_doubt_ours == 0 && resources[0].rolled_back_by_sweeper == 0, "{resources:?}");
    ensure!(resources[1].in_doubt_foreign == 0, "{resources:?}");
    // Each is as its owner left it.
    for (account, name) in (ACCOUNT..).zip(&foreign) {
        bank.run(&format!("XA COMMIT {name}")).await?;
        ensure!(bank.balance(account).await? == 1, "{name}");
    }
    Ok(())
}

/// Listed, ours, decided: and yet left to its participant until the interval is over.
async fn waits_for_the_safety_interval(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor, patient()).await?;
    scene.world.two.fault(Verb::Commit, Fault::Unavailable).await?;
    let (_, request) = scene.world.transfer(1, 100);
    let running = scene.world.spawn(request);
    scene.world.two.called(Verb::Commit, 0).await?;
    scene.swept(3).await?;
    let listed = scene.in_doubt().await?;
    ensure!(listed.len() == 1 && listed[0].verdict == "commit", "{listed:?}");
    let seen = listed[0].first_seen_at.context("the sweeper has seen it")?;
    scene.swept(1).await?;
    ensure!(scene.in_doubt().await?[0].first_seen_at == Some(seen), "first seen is first seen");
    ensure!(scene.resources().await?[1].committed_by_sweeper == 0);
    // With none it ends it at once, in the participant's place.
    scene.world.coordinator.kill9()?;
    let told = std::mem::take(scene.world.coordinator.options_mut());
    *scene.world.coordinator.options_mut() = told.set("sweeper.safety_interval_ms", 0);
    scene.world.coordinator.restart().await?;
    scene.world.coordinator.drained().await?;
    let (transfer, _) = running.answer().await?;
    scene.world.audit(&[Transfer { outcome: Outcome::Committed, ..transfer }]).await?;
    ensure!(scene.resources().await?[1].committed_by_sweeper == 1);
    Ok(())
}

async fn says_what_is_wrong_with_a_resource(flavor: Flavor) -> Result<()> {
    let pair = concord_tests::pair(flavor).await?;
    let banks = pair.banks(1, 0).await?;
    banks[0].run("CREATE USER IF NOT EXISTS 'watcher'@'127.0.0.1' IDENTIFIED BY 'r1ght'").await?;
    let port = pair.servers()[0].port();
    let wrong = format!("mysql://watcher:s3cret-wr0ng@127.0.0.1:{port}/bank");
    // A port that programs are not given; nobody listens there.
    let absent = "mysql://watcher:s3cret-abs3nt@127.0.0.1:1/bank";
    let coordinator = eager().resource("wrong", &wrong, &[]).resource("absent", absent, &[]);
    let participant = ParticipantOptions::default();
    let world = World::start(
        PROGRAMS,
        banks,
        WorldOptions { coordinator, participant, sweeper: true, ..WorldOptions::default() },
    )
    .await?;
    let scene = Scene { world, _pair: pair };
    let resources = until("every resource has been tried", async || {
        let all = scene.resources().await?;
        Ok(all.iter().all(|one| one.reachable || !one.error.is_empty()).then_some(all))
    })
    .await?;
    let by_name = |name: &str| resources.iter().find(|one| one.name == name).context("a resource");
    let (wrong, absent, good) = (by_name("wrong")?, by_name("absent")?, by_name("one")?);
    ensure!(!wrong.reachable && wrong.error.contains("Access denied"), "{wrong:?}");
    ensure!(!absent.reachable && wrong.swept_at.is_none(), "{absent:?}");
    ensure!(good.reachable && good.error.is_empty(), "{good:?}");
    let product = if flavor == Flavor::MySql { "MySQL" } else { "MariaDB" };
    ensure!(good.server.starts_with(product), "{good:?}");
    ensure!(good.participants == [scene.world.one.url()], "{good:?}");
    ensure!(absent.address == "127.0.0.1:1/bank", "{absent:?}");

    let mut operator = scene.world.coordinator.operator();
    let answer = operator.list_in_doubt(ListInDoubtRequest::default()).await?.into_inner();
    let mut unreachable: Vec<_> = answer.unreachable.iter().map(|one| one.resource.as_str()).collect();
    unreachable.sort_unstable();
    ensure!(unreachable == ["absent", "wrong"], "{answer:?}");
    let one = operator.list_in_doubt(ListInDoubtRequest { resource: "one".into() }).await?.into_inner();
    ensure!(one.unreachable.is_empty() && one.branches.is_empty(), "{one:?}");

    // Not in an answer, nor in the log.
    let mut scene = scene;
    let said = format!("{resources:?}{answer:?}{}", scene.world.coordinator.process().log());
    ensure!(!said.contains("s3cret"), "a password was told");
    ensure!(said.contains("cannot look for in-doubt branches"), "the log says nothing of it");
    // One that comes back is used again.
    scene.world.banks()[0].server().kill9()?;
    until("the loss is noticed", async || {
        Ok(scene.resources().await?.iter().any(|one| one.name == "one" && !one.reachable).then_some(()))
    })
    .await?;
    scene.world.banks()[0].server().restart().await?;
    until("it is reachable again", async || {
        Ok(scene.resources().await?.iter().any(|one| one.name == "one" && one.reachable).then_some(()))
    })
    .await
}

/// Prepares a branch that adds 1 to an account, on a session that is then closed.
async fn prepare(bank: &Bank, name: &str, account: u32, gtid: &str) -> Result<()> {
    let mut connection = mysql_async::Conn::from_url(bank.url()).await?;
    // The foreign names are numbered as their accounts are.
    let branch = account - ACCOUNT + 1;
    for sql in [
        format!("XA START {name}"),
        format!("UPDATE account SET balance = balance + 1 WHERE id = {account}"),
        format!(
            "INSERT INTO concord_barrier (gtid, branch, state, connection_id, reply) \
             VALUES (X'{gtid}', {branch}, 1, 0, '')"
        ),
        format!("XA END {name}"),
        format!("XA PREPARE {name}"),
    ] {
        connection.query_drop(&sql).await.context(sql)?;
    }
    Ok(connection.disconnect().await?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
