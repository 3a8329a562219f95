//! Participants that are in several places: on addresses of this machine, of which it has millions.

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;

use concord_proto::names::LookingUp;
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Server, ServerTlsConfig};

use super::*;
use crate::config::Service;

const STOCK: &str = "service://stock";
const OPEN_FOR: Duration = Duration::from_millis(50);

/// A participant at one address.
struct Instance {
    address: SocketAddr,
    calls: Arc<AtomicU64>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Instance {
    async fn at(address: SocketAddr) -> Instance {
        Instance::listening(TcpListener::bind(address).await.unwrap(), Server::builder())
    }

    fn listening(listener: TcpListener, mut server: Server) -> Instance {
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let calls = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&calls);
        let count = move |request| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(request)
        };
        let server = server.add_service(ParticipantServer::with_interceptor(Stub, count));
        let served = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            server.serve_with_incoming_shutdown(TcpIncoming::from(listener), stopped).await.unwrap();
        });
        Instance { address, calls, stop, served }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    async fn stop(self) -> SocketAddr {
        drop(self.stop);
        self.served.await.unwrap();
        self.address
    }
}

/// On several addresses the same port, which no other test has on one of them.
async fn listeners<const N: usize>() -> [TcpListener; N] {
    loop {
        let mut listeners = vec![TcpListener::bind("127.0.0.1:0").await.unwrap()];
        let port = listeners[0].local_addr().unwrap().port();
        for number in 2..=N {
            listeners.extend(TcpListener::bind(format!("127.0.0.{number}:{port}")).await);
        }
        if let Ok(all) = listeners.try_into() {
            return all;
        }
    }
}

async fn instances<const N: usize>() -> [Instance; N] {
    listeners().await.map(|listener| Instance::listening(listener, Server::builder()))
}

fn settings(addresses: &[String]) -> OutboundSettings {
    let stock = Service { name: "stock".to_owned(), addresses: addresses.to_vec() };
    let breaker = BreakerSettings { failures_before_open: 3, open_for: OPEN_FOR };
    let call_timeout = Duration::from_secs(10);
    let settings = participants().settings.load().as_ref().clone();
    OutboundSettings { services: vec![stock], breaker, call_timeout, ..settings }
}

fn urls(instances: &[Instance]) -> Vec<String> {
    instances.iter().map(Instance::url).collect()
}

fn outbound(settings: OutboundSettings) -> GrpcParticipants {
    GrpcParticipants::new(ClusterId(1), settings, &Metrics::default())
}

fn branch_call(participant: &str, branch: u32, verb: Verb, action: &str) -> BranchCall {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 1));
    BranchCall {
        branch: BranchId(branch),
        participant: participant.into(),
        ..call(anywhere, verb, action, false)
    }
}

/// Which of the instances is called for a branch.
async fn called(participants: &GrpcParticipants, to: &str, branch: u32, instances: &[Instance]) -> usize {
    let before: Vec<_> = instances.iter().map(Instance::calls).collect();
    let result = participants.call(branch_call(to, branch, Verb::WorkAndPrepare, "yes")).await;
    assert_eq!(result.reply, Reply::Vote(Vote::Yes), "{}", result.reason);
    let mut called = (0..instances.len()).filter(|number| instances[*number].calls() > before[*number]);
    let one = called.next().unwrap();
    assert_eq!(called.next(), None);
    one
}

async fn all_called(participants: &GrpcParticipants, to: &str, instances: &[Instance]) -> Vec<usize> {
    let mut all = Vec::new();
    for branch in 1..=60 {
        all.push(called(participants, to, branch, instances).await);
    }
    all
}

/// The addresses behind the only participant, with whether they are passed over.
fn known(participants: &GrpcParticipants) -> Vec<(String, bool)> {
    let [one] = participants.list().try_into().unwrap();
    one.addresses.into_iter().map(|known| (known.address, known.passed_over)).collect()
}

#[tokio::test]
async fn a_service_is_called_where_the_configuration_says_and_nowhere_else() {
    let [one] = instances::<1>().await;
    let participants = outbound(settings(&[one.url()]));
    assert!(participants.permits(STOCK));
    assert!(!participants.permits("service://payment") && !participants.permits("SERVICE://stock/x"));
    assert_eq!(called(&participants, STOCK, 1, std::slice::from_ref(&one)).await, 0);
    // What was accepted before its service was taken out of the configuration waits until it is there again.
    participants.configure(OutboundSettings { services: Vec::new(), ..settings(&[]) });
    assert!(!participants.permits(STOCK));
    let result = participants.call(branch_call(STOCK, 1, Verb::Commit, "")).await;
    assert_eq!(result.reply, Reply::Failed { maybe_arrived: false });
    assert!(result.reason.contains("no [[service]] says where it is"), "{}", result.reason);
    participants.configure(settings(&[one.url()]));
    assert_eq!(called(&participants, STOCK, 1, &[one]).await, 0);
}

#[tokio::test]
async fn each_has_its_share_and_a_branch_keeps_to_one_whichever_others_come_and_go() {
    let instances = instances::<4>().await;
    let urls = urls(&instances);
    let participants = outbound(settings(&urls[..3]));
    let before = all_called(&participants, STOCK, &instances).await;
    let share = |of: usize| before.iter().filter(|called| **called == of).count();
    assert!([0, 1, 2].iter().all(|number| share(*number) >= 3), "{before:?}");
    assert_eq!(all_called(&participants, STOCK, &instances).await, before, "each keeps to its own");
    // One comes and one goes.
    participants.configure(settings(&urls[1..]));
    let after = all_called(&participants, STOCK, &instances).await;
    for (before, after) in before.iter().zip(&after) {
        assert!(after == before || *after == 3 || *before == 0, "{before} -> {after}");
    }
    assert!(after.iter().filter(|called| **called == 3).count() >= 3 && !after.contains(&0), "{after:?}");
}

#[tokio::test]
async fn one_that_is_gone_is_stood_in_for_by_the_others_and_has_its_share_when_it_is_back() {
    let [one, two] = instances().await;
    let participants = outbound(settings(&[one.url(), two.url()]));
    let both = [one, two];
    let before = all_called(&participants, STOCK, &both).await;
    let [one, two] = both;
    let address = one.stop().await;
    for branch in 1..=60 {
        let result = participants.call(branch_call(STOCK, branch, Verb::Commit, "")).await;
        // The stub has no outcome to tell; but it was asked.
        assert!(result.reason.contains("holds no outcome"), "{}", result.reason);
    }
    assert_eq!(known(&participants), [(format!("http://{address}"), true), (two.url(), false)]);
    let [listed] = participants.list().try_into().unwrap();
    assert!(!listed.breaker_open && listed.failures == 0, "{listed:?}");
    assert_eq!(participants.failed(CallFailure::Unreachable), 0);
    let both = [Instance::at(address).await, two];
    for _ in 0..100 {
        if all_called(&participants, STOCK, &both).await == before {
            return;
        }
        tokio::time::sleep(OPEN_FOR).await;
    }
    panic!("its share has not come back: {:?}", known(&participants));
}

/// Accepts connections, and says nothing.
async fn mute() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[tokio::test]
async fn one_that_hangs_costs_a_call_now_and_then_and_no_breaker_unless_all_do() {
    let [one] = instances().await;
    let (_mute, hanging) = mute().await;
    let breaker = BreakerSettings { failures_before_open: 3, open_for: Duration::from_secs(60) };
    let call_timeout = Duration::from_millis(300);
    let settings = |addresses: &[String]| OutboundSettings { breaker, call_timeout, ..settings(addresses) };
    let participants = outbound(settings(&[one.url(), hanging]));
    let mut replies = HashSet::new();
    for branch in 1..=60 {
        let result = participants.call(branch_call(STOCK, branch, Verb::WorkAndPrepare, "yes")).await;
        replies.insert(match result.reply {
            Reply::Vote(Vote::Yes) => "yes",
            Reply::Failed { maybe_arrived: true } => "timed out",
            other => panic!("{other:?}: {}", result.reason),
        });
    }
    assert_eq!(replies, HashSet::from(["yes", "timed out"]));
    assert_eq!((one.calls(), participants.failed(CallFailure::TimedOut)), (59, 1));
    assert_eq!(participants.count().breakers, [1, 0, 0]);
    let (mutes, addresses): (Vec<_>, Vec<_>) = [mute().await, mute().await].into_iter().unzip();
    let participants = outbound(settings(&addresses));
    for _ in 0..4 {
        let result = participants.call(branch_call(STOCK, 1, Verb::Commit, "")).await;
        assert_eq!(result.reply, Reply::Failed { maybe_arrived: true }, "{}", result.reason);
    }
    let result = participants.call(branch_call(STOCK, 1, Verb::Commit, "")).await;
    assert!(result.reason.contains("breaker open"), "{}", result.reason);
    drop(mutes);
}

/// Calls for a branch until it is answered, however seldom it is called.
async fn is_answered(participants: &GrpcParticipants, branch: u32) {
    for _ in 0..64 {
        let result = participants.call(branch_call(STOCK, branch, Verb::WorkAndPrepare, "yes")).await;
        if result.reply == Reply::Vote(Vote::Yes) {
            return;
        }
        // Longer than one that does not answer is passed over.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("it has never got to the one that answers");
}

#[tokio::test]
async fn a_branch_that_is_called_seldom_does_not_try_the_one_that_hangs_each_time() {
    let [one] = instances().await;
    let (_mute, hanging) = mute().await;
    let addresses = [one.url(), hanging];
    let weight = |url: &String, branch| {
        let call = branch_call(STOCK, branch, Verb::Commit, "");
        call::weight(url, call.gtid, call.branch)
    };
    let branch =
        (1..).find(|branch| weight(&addresses[1], *branch) > weight(&addresses[0], *branch)).unwrap();
    let patient = |open_for| OutboundSettings {
        breaker: BreakerSettings { failures_before_open: 0, open_for },
        call_timeout: Duration::from_millis(20),
        ..settings(&addresses)
    };
    is_answered(&outbound(patient(Duration::from_millis(1))), branch).await;
    // Neither has answered lately.
    let participants = outbound(patient(Duration::from_secs(60)));
    let address = one.address;
    one.stop().await;
    loop {
        participants.call(branch_call(STOCK, branch, Verb::Commit, "")).await;
        if known(&participants).iter().all(|(_, passed_over)| *passed_over) {
            break;
        }
    }
    let _back = Instance::at(address).await;
    is_answered(&participants, branch).await;
}

/// What a name server says, as long as it says so.
#[derive(Clone, Default)]
struct NameServer(Arc<Mutex<Option<Vec<SocketAddr>>>>);

impl NameServer {
    fn says(&self, addresses: &[SocketAddr]) {
        *self.0.lock().unwrap() = Some(addresses.to_vec());
    }

    fn look_up(&self) -> Arc<LookUp> {
        let said = Arc::clone(&self.0);
        Arc::new(move |name: &Name| -> LookingUp {
            assert_eq!(name.host(), "stock.test");
            let said = said.lock().unwrap().clone();
            Box::pin(std::future::ready(said.ok_or_else(|| std::io::Error::other("no name server"))))
        })
    }
}

/// Lets the time pass after which names are looked up again, until that has led to these addresses.
async fn looked_up_again(participants: &GrpcParticipants, addresses: &[SocketAddr]) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6)).await;
    tokio::time::resume();
    let expected: Vec<_> = addresses.iter().map(|address| format!("http://{address}")).collect();
    let known = || known(participants).into_iter().map(|(address, _)| address).collect::<Vec<_>>();
    for _ in 0..1_000 {
        if known() == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{:?} are not {expected:?}", known());
}

#[tokio::test]
async fn a_name_is_looked_up_again_and_each_address_behind_it_has_its_share() {
    let instances = instances::<3>().await;
    let addresses: Vec<_> = instances.iter().map(|one| one.address).collect();
    let names = NameServer::default();
    let name = format!("http://stock.test:{}", addresses[0].port());
    let allow = AllowList::parse(["http://stock.test:*"]).unwrap();
    let mut participants = outbound(OutboundSettings { allow, ..settings(&[]) });
    participants.look_up = names.look_up();
    names.says(&addresses[..2]);
    let before = all_called(&participants, &name, &instances).await;
    assert_eq!(before.iter().collect::<HashSet<_>>().len(), 2, "{before:?}");
    names.says(&addresses[1..]);
    looked_up_again(&participants, &addresses[1..]).await;
    let after = all_called(&participants, &name, &instances).await;
    assert!(!after.contains(&0) && after.contains(&2), "{after:?}");
    assert!(before.iter().zip(&after).all(|(before, after)| *before == 0 || *after == 2 || before == after));
    // While the name server is away, what it said last holds.
    *names.0.lock().unwrap() = None;
    looked_up_again(&participants, &addresses[1..]).await;
    assert_eq!(all_called(&participants, &name, &instances).await, after);
}

#[tokio::test]
async fn a_name_that_cannot_be_looked_up_is_nobody_that_a_call_has_reached() {
    let mut participants = outbound(settings(&[]));
    participants.look_up = Arc::new(|_: &Name| -> LookingUp { Box::pin(std::future::pending()) });
    let result = participants.call(branch_call("http://stock.test:7101", 1, Verb::Commit, "")).await;
    assert_eq!(result.reply, Reply::Failed { maybe_arrived: false });
    assert!(result.reason.contains("not been looked up in time"), "{}", result.reason);
}

#[tokio::test]
async fn behind_a_name_it_is_the_name_that_the_certificate_must_have() {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["stock.test".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let identity = tonic::transport::Identity::from_pem(&certificate, key.serialize_pem());
    let tls = ServerTlsConfig::new().identity(identity);
    let server = || Server::builder().tls_config(tls.clone()).unwrap();
    let instances = listeners::<2>().await.map(|listener| Instance::listening(listener, server()));
    let port = instances[0].address.port();
    let tls = OutboundTls { authorities: Some(certificate.into_bytes()), ..OutboundTls::default() };
    let mut participants = outbound(OutboundSettings { tls, ..settings(&[]) });
    let names = NameServer::default();
    names.says(&instances.each_ref().map(|one| one.address));
    participants.look_up = names.look_up();
    let all = all_called(&participants, &format!("https://stock.test:{port}"), &instances).await;
    assert_eq!(all.into_iter().collect::<HashSet<_>>().len(), 2);
    // To an address it is the certificate of somebody else.
    let address = format!("https://{}", instances[0].address);
    let result = participants.call(branch_call(&address, 1, Verb::Commit, "")).await;
    assert_eq!(result.reply, Reply::Failed { maybe_arrived: false }, "{}", result.reason);
}

#[tokio::test]
async fn a_client_of_the_configuration_before_is_not_used_whoever_puts_it_back() {
    let participants = outbound(settings(&[]));
    participants.http_client().unwrap();
    let before = participants.http.lock().unwrap().clone();
    let key = KeyPair::generate().unwrap();
    let authority =
        CertificateParams::new(vec!["authority.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let tls = OutboundTls { authorities: Some(authority.pem().into_bytes()), ..OutboundTls::default() };
    participants.configure(OutboundSettings { tls: tls.clone(), ..settings(&[]) });
    // By somebody who had begun to make it before the change.
    *participants.http.lock().unwrap() = before;
    participants.http_client().unwrap();
    let now = participants.http.lock().unwrap().clone();
    assert_eq!(now.map(|(made_of, _)| made_of), Some(tls));
}
