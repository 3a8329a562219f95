//! Everything is killed and frozen at random moments while 200 transfers run, each side of them by XA or TCC.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_tests::CoordinatorOptions;
use futures_util::StreamExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::Semaphore;

use super::support::*;

concord_tests::on_both!(two_hundred_transfers);

type Api = CoordinatorClient<tonic::transport::Channel>;

const TRANSFERS: usize = 200;
const AT_A_TIME: usize = 8;
/// Before each fault, so many more transfers are let go: each fault finds some under way.
const FAULTS: usize = 8;
/// Not the first account: it pays for the transfer that must succeed afterwards.
const ACCOUNTS: std::ops::RangeInclusive<u32> = 2..=10;

#[derive(Debug, Clone, Copy)]
enum Target {
    Coordinator,
    Participant(usize),
    Database(usize),
    Everything,
}

const TARGETS: [Target; 6] = [
    Target::Coordinator,
    Target::Participant(0),
    Target::Participant(1),
    Target::Database(0),
    Target::Database(1),
    Target::Everything,
];

async fn two_hundred_transfers(flavor: Flavor) -> Result<()> {
    let seed = match std::env::var("CONCORD_TEST_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => rand::random::<u64>(),
    };
    println!("replay with CONCORD_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let coordinator =
        CoordinatorOptions::new().set("calls.timeout_ms", 1_000).set("transaction.timeout_default_ms", 3_000);
    let mut scene = Scene::set_with(flavor, WorldOptions { coordinator, ..WorldOptions::default() }).await?;
    let requests: Vec<ExecuteRequest> = (0..TRANSFERS)
        .map(|number| {
            let mut kind = || if random.random() { BranchKind::Tcc } else { BranchKind::Xa };
            let mut both = concord_tests::actions([kind(), kind()]);
            if random.random() {
                both.reverse();
            }
            let mut account = || random.random_range(ACCOUNTS);
            let actions = [(both[0], account()), (both[1], account())];
            let amount = random.random_range(1..=BALANCE / 2);
            scene.world.request(&format!("random-{number}"), actions, amount)
        })
        .collect();
    let api = scene.world.coordinator.api();
    let (gate, passed) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (start, started) = (Arc::clone(&gate), Arc::clone(&passed));
    let transfers = futures_util::stream::iter(requests.into_iter().enumerate())
        .map(move |(number, request)| {
            let (api, start, started) = (api.clone(), Arc::clone(&start), Arc::clone(&started));
            async move {
                start.acquire().await.expect("nobody closes it").forget();
                started.fetch_add(1, Ordering::SeqCst);
                // Every second initiator asks again until it knows; the others leave it at that.
                initiate(api, request, number % 2 == 0).await
            }
        })
        .buffer_unordered(AT_A_TIME)
        .collect::<Vec<Transfer>>();
    let transfers = tokio::spawn(transfers);
    for fault in 0..FAULTS {
        gate.add_permits(TRANSFERS / FAULTS);
        let before = fault * TRANSFERS / FAULTS;
        until("transfers are under way", async || Ok((passed.load(Ordering::SeqCst) > before).then_some(())))
            .await?;
        let target = *TARGETS.choose(&mut random).expect("there are targets");
        let (freeze, wait, meanwhile) =
            (random.random(), random.random_range(0..60), random.random_range(0..300));
        tokio::time::sleep(Duration::from_millis(wait)).await;
        make(&mut scene, target, freeze, Duration::from_millis(meanwhile)).await?;
    }
    let transfers = transfers.await?;
    let count = |outcome| transfers.iter().filter(|transfer| transfer.outcome == outcome).count();
    let told = [Outcome::Committed, Outcome::RolledBack, Outcome::Unknown].map(count);
    println!("committed, rolled back, not known: {told:?}");
    // Else nothing has been shown.
    ensure!(told[0] > 0 && told[1] > 0, "vacuous: {told:?}");
    scene.ends_well(transfers).await
}

/// Runs one transfer.
async fn initiate(mut api: Api, request: ExecuteRequest, insist: bool) -> Transfer {
    let name = request.name.clone();
    let request = ExecuteRequest { idempotency_key: name.clone(), ..request };
    loop {
        let answer = api.execute(request.clone()).await.map(tonic::Response::into_inner);
        let outcome = Outcome::of(&answer);
        if outcome != Outcome::Unknown || !insist {
            return Transfer { name, outcome };
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Kills or freezes the target, and brings it back after a while.
async fn make(scene: &mut Scene, target: Target, freeze: bool, meanwhile: Duration) -> Result<()> {
    let pause = tokio::time::sleep(meanwhile);
    println!("{target:?} {} for {meanwhile:?}", if freeze { "frozen" } else { "killed" });
    let (servers, world) = (scene.servers().clone(), &mut scene.world);
    match (target, freeze) {
        (Target::Coordinator, true) => {
            world.coordinator.process().pause()?;
            pause.await;
            world.coordinator.process().resume()
        }
        (Target::Coordinator, false) => {
            world.coordinator.kill9()?;
            pause.await;
            world.coordinator.restart().await
        }
        (Target::Participant(number), freeze) => {
            let participant = if number == 0 { &mut world.one } else { &mut world.two };
            if freeze {
                participant.process().pause()?;
                pause.await;
                return participant.process().resume();
            }
            participant.kill9()?;
            pause.await;
            participant.restart().await
        }
        (Target::Database(number), true) => {
            servers[number].pause()?;
            pause.await;
            Ok(servers[number].resume()?)
        }
        (Target::Database(number), false) => {
            servers[number].kill9()?;
            pause.await;
            Ok(servers[number].restart().await?)
        }
        (Target::Everything, _) => {
            world.coordinator.kill9()?;
            world.one.kill9()?;
            world.two.kill9()?;
            servers.iter().try_for_each(Server::kill9)?;
            tokio::try_join!(servers[0].restart(), servers[1].restart())?;
            world.one.restart().await?;
            world.two.restart().await?;
            world.coordinator.restart().await
        }
    }
}
