//! The links of a run: each between a client and a server of the test's own, with every fault that there is.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jepsen::cluster::network::{Caller, Condition, Direction, End, Link, Network, Node};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What has not come by then never will: a test fails then, and does not hang.
const AT_ALL: Duration = Duration::from_secs(60);
/// For so long a test listens to hear nothing.
const QUIET_FOR: Duration = Duration::from_millis(100);

/// A link, and the server at its end.
struct Wire {
    network: Network,
    link: Arc<Link>,
    server: TcpListener,
}

impl Wire {
    async fn new() -> Wire {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut network = Network::default();
        let port = server.local_addr().unwrap().port();
        let link = network.connect(Node::Clients, Node::Coordinator(0), port).unwrap();
        Wire { network, link, server }
    }

    async fn caller(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.link.port())).await.unwrap()
    }

    /// The two ends of a new connection that works.
    async fn connection(&self) -> (TcpStream, TcpStream) {
        let mut caller = self.caller().await;
        let mut callee = in_the_end(self.server.accept()).await.unwrap().0;
        works(&mut caller, &mut callee).await;
        (caller, callee)
    }

    /// Nobody comes to the server.
    async fn nobody_comes(&self) {
        assert!(tokio::time::timeout(QUIET_FOR, self.server.accept()).await.is_err());
    }
}

/// What happens at all.
async fn in_the_end<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(AT_ALL, what).await.expect("it happens at all")
}

/// Something arrives.
async fn arrives(from: &mut TcpStream, to: &mut TcpStream, text: &str) {
    from.write_all(text.as_bytes()).await.unwrap();
    hears(to, text).await;
}

async fn hears(stream: &mut TcpStream, text: &str) {
    let mut heard = vec![0; text.len()];
    in_the_end(stream.read_exact(&mut heard)).await.unwrap();
    assert_eq!(String::from_utf8(heard).unwrap(), text);
}

async fn works(caller: &mut TcpStream, callee: &mut TcpStream) {
    arrives(caller, callee, "there").await;
    arrives(callee, caller, "back").await;
}

/// Nothing comes: no byte, no end, no reset.
async fn hears_nothing(stream: &mut TcpStream) {
    let heard = tokio::time::timeout(QUIET_FOR, stream.read(&mut [0])).await;
    assert!(heard.is_err(), "{heard:?}");
}

async fn is_reset(stream: &mut TcpStream) {
    let heard = in_the_end(stream.read(&mut [0])).await;
    assert_eq!(heard.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// Far more than the link takes at a time.
fn a_lot() -> Vec<u8> {
    (0..2_000_000_u32).map(|number| (number / 251 * 7 + number % 251) as u8).collect()
}

/// Sends a lot, and closes its half; gives the other half back.
fn send_a_lot(mut from: TcpStream) -> tokio::task::JoinHandle<TcpStream> {
    tokio::spawn(async move {
        from.write_all(&a_lot()).await.unwrap();
        from.shutdown().await.unwrap();
        from
    })
}

async fn receive_a_lot(to: &mut TcpStream) {
    let mut received = Vec::new();
    in_the_end(to.read_to_end(&mut received)).await.unwrap();
    assert!(received == a_lot(), "{} bytes, not those that were sent", received.len());
}

fn delayed(by: Duration) -> Direction {
    Direction { delay: by, ..Direction::default() }
}

#[tokio::test]
async fn a_link_passes_on_everything_in_its_order_and_the_end_of_each_half() {
    let wire = Wire::new().await;
    let (caller, mut callee) = wire.connection().await;
    let sending = send_a_lot(caller);
    receive_a_lot(&mut callee).await;
    let mut caller = sending.await.unwrap();
    // The other half is open still.
    arrives(&mut callee, &mut caller, "more").await;
    let sending = send_a_lot(callee);
    receive_a_lot(&mut caller).await;
    sending.await.unwrap();
}

#[tokio::test]
async fn what_one_end_does_not_hear_it_hears_later() {
    for deaf in [End::Caller, End::Callee] {
        let wire = Wire::new().await;
        let (caller, callee) = wire.connection().await;
        wire.link.spoil(1, Condition::deaf(deaf));
        let (mut deaf, mut heard) = if deaf == End::Caller { (caller, callee) } else { (callee, caller) };
        arrives(&mut deaf, &mut heard, "hello").await;
        let sending = send_a_lot(heard);
        hears_nothing(&mut deaf).await;
        wire.link.mend(1);
        receive_a_lot(&mut deaf).await;
        sending.await.unwrap();
    }
}

#[tokio::test]
async fn through_a_link_that_is_cut_nothing_comes_until_it_is_mended() {
    for condition in [Condition::cut(), Condition::deaf(End::Caller), Condition::deaf(End::Callee)] {
        let wire = Wire::new().await;
        let (mut old_caller, mut old_callee) = wire.connection().await;
        wire.link.spoil(1, condition);
        let mut caller = wire.caller().await;
        caller.write_all(b"hello").await.unwrap();
        wire.nobody_comes().await;
        wire.link.mend(1);
        let mut callee = in_the_end(wire.server.accept()).await.unwrap().0;
        hears(&mut callee, "hello").await;
        works(&mut caller, &mut callee).await;
        works(&mut old_caller, &mut old_callee).await;
    }
}

#[tokio::test]
async fn whoever_is_cut_off_does_not_hear_that_the_other_has_gone() {
    for gone in [End::Caller, End::Callee] {
        let wire = Wire::new().await;
        let (caller, callee) = wire.connection().await;
        wire.link.spoil(1, Condition::cut());
        let (gone, mut other) = if gone == End::Caller { (caller, callee) } else { (callee, caller) };
        gone.set_zero_linger().unwrap();
        drop(gone);
        hears_nothing(&mut other).await;
        wire.link.mend(1);
        is_reset(&mut other).await;
    }
}

#[tokio::test]
async fn a_half_open_connection_is_known_to_one_end_only() {
    for forgetful in [End::Caller, End::Callee] {
        let wire = Wire::new().await;
        let (caller, callee) = wire.connection().await;
        wire.link.forget(1, forgetful);
        let (mut forgetful, mut other) =
            if forgetful == End::Caller { (caller, callee) } else { (callee, caller) };
        is_reset(&mut forgetful).await;
        other.write_all(b"is anybody there?").await.unwrap();
        hears_nothing(&mut other).await;
        let (mut caller, mut callee) = wire.connection().await;
        wire.link.mend(1);
        is_reset(&mut other).await;
        works(&mut caller, &mut callee).await;
    }
}

#[tokio::test]
async fn a_connection_breaks_when_chance_will_have_it() {
    let certain = Direction { reset: 1.0, ..Direction::default() };
    let wire = Wire::new().await;
    let (mut caller, mut callee) = wire.connection().await;
    wire.link.spoil(1, Condition { there: certain, ..Condition::default() });
    arrives(&mut callee, &mut caller, "this way it is as good as ever").await;
    caller.write_all(b"x").await.unwrap();
    is_reset(&mut callee).await;
    is_reset(&mut caller).await;
    wire.link.mend(1);
    wire.connection().await;
}

#[tokio::test]
async fn of_two_faults_the_other_stays_when_one_is_mended() {
    let wire = Wire::new().await;
    let (mut caller, mut callee) = wire.connection().await;
    wire.link.spoil(1, Condition::deaf(End::Callee));
    wire.link.spoil(2, Condition::cut());
    caller.write_all(b"one").await.unwrap();
    callee.write_all(b"two").await.unwrap();
    hears_nothing(&mut caller).await;
    wire.link.mend(2);
    hears(&mut caller, "two").await;
    hears_nothing(&mut callee).await;
    wire.link.mend(1);
    hears(&mut callee, "one").await;
}

#[tokio::test]
async fn of_two_half_open_faults_each_has_its_own_connections() {
    let wire = Wire::new().await;
    let (mut first_caller, mut first_callee) = wire.connection().await;
    wire.link.forget(1, End::Caller);
    is_reset(&mut first_caller).await;
    let (mut second_caller, mut second_callee) = wire.connection().await;
    wire.link.forget(2, End::Callee);
    is_reset(&mut second_callee).await;
    let (mut third_caller, mut third_callee) = wire.connection().await;
    hears_nothing(&mut first_callee).await;
    wire.link.mend(1);
    is_reset(&mut first_callee).await;
    hears_nothing(&mut second_caller).await;
    works(&mut third_caller, &mut third_callee).await;
    wire.link.mend(2);
    is_reset(&mut second_caller).await;
    works(&mut third_caller, &mut third_callee).await;
}

#[tokio::test]
async fn a_half_open_connection_ends_only_when_the_link_is_not_cut_either() {
    let wire = Wire::new().await;
    let (mut caller, mut callee) = wire.connection().await;
    wire.link.forget(1, End::Callee);
    is_reset(&mut callee).await;
    wire.link.spoil(2, Condition::cut());
    wire.link.mend(1);
    hears_nothing(&mut caller).await;
    wire.link.mend(2);
    is_reset(&mut caller).await;
}

#[tokio::test]
async fn what_is_delayed_comes_so_much_later_at_least() {
    const DELAY: Duration = Duration::from_millis(60);
    let wire = Wire::new().await;
    let (mut caller, mut callee) = wire.connection().await;
    for (condition, at_least) in [
        (Condition { there: delayed(DELAY), ..Condition::default() }, DELAY),
        (Condition { back: delayed(DELAY), ..Condition::default() }, DELAY),
        (Condition::both(delayed(DELAY)), 2 * DELAY),
    ] {
        wire.link.spoil(1, condition);
        let started = Instant::now();
        works(&mut caller, &mut callee).await;
        assert!(started.elapsed() >= at_least);
    }
}

#[tokio::test]
async fn what_is_lost_is_sent_again_later() {
    const AGAIN_AFTER: Duration = Duration::from_millis(200);
    let wire = Wire::new().await;
    let (mut caller, mut callee) = wire.connection().await;
    let lossy = Direction { loss: 0.3, ..Direction::default() };
    wire.link.spoil(1, Condition { there: lossy, ..Condition::default() });
    let mut was_lost = false;
    // The chance that none is lost is one in 10^15 for a hundred.
    for _ in 0..100 {
        let started = Instant::now();
        arrives(&mut caller, &mut callee, "once").await;
        was_lost = started.elapsed() >= AGAIN_AFTER;
        if was_lost {
            break;
        }
    }
    assert!(was_lost);
    wire.link.mend(1);
    works(&mut caller, &mut callee).await;
}

#[tokio::test]
async fn without_a_callee_the_caller_is_refused() {
    let Wire { network: _network, link, server } = Wire::new().await;
    drop(server);
    let mut caller = TcpStream::connect(("127.0.0.1", link.port())).await.unwrap();
    is_reset(&mut caller).await;
}

#[tokio::test]
async fn with_the_link_its_connections_end() {
    let wire = Wire::new().await;
    let (mut caller, mut callee) = wire.connection().await;
    let Wire { network, link, server: _server } = wire;
    drop((network, link));
    for end in [&mut caller, &mut callee] {
        assert!(matches!(in_the_end(end.read(&mut [0])).await, Ok(0) | Err(_)));
    }
}

#[tokio::test]
async fn a_network_knows_its_links() {
    let mut network = Network::default();
    for (from, to) in [
        (Node::Clients, Node::Coordinator(0)),
        (Node::Coordinator(0), Node::Participant(0)),
        (Node::Participant(0), Node::Database(0)),
    ] {
        network.connect(from, to, 1).unwrap();
    }
    let of = |node| network.of(node).iter().map(|link| link.to()).collect::<Vec<_>>();
    assert_eq!(of(Node::Coordinator(0)), [Node::Coordinator(0), Node::Participant(0)]);
    assert_eq!(of(Node::Database(0)), [Node::Database(0)]);
    assert_eq!(of(Node::Participant(1)), []);
}

#[tokio::test]
async fn links_between_a_node_and_others() {
    let mut network = Network::default();
    let [one, other] = [Node::Coordinator(0), Node::Coordinator(1)];
    for (from, to) in [(one, Node::Store), (other, Node::Store), (Node::Participant(0), one), (one, other)] {
        network.connect(from, to, 1).unwrap();
    }
    let between = |is_other: &dyn Fn(Node) -> bool| {
        let links = network.between(one, is_other);
        links.iter().map(|link| (link.from(), link.to())).collect::<Vec<_>>()
    };
    assert_eq!(between(&|node| node == Node::Store), [(one, Node::Store)]);
    assert_eq!(between(&|node| matches!(node, Node::Participant(_))), [(Node::Participant(0), one)]);
}

/// A caller that is known by the last argument of this process, or by one that no process has.
fn caller(number: usize, is_this_process: bool) -> Caller {
    let this = std::env::args().next_back().unwrap();
    let last_argument = if is_this_process { this } else { format!("nobody has this argument {number}") };
    Caller { node: Node::Coordinator(number), last_argument }
}

#[tokio::test]
async fn at_an_entrance_everyone_takes_the_own_link() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut network = Network::default();
    let port = server.local_addr().unwrap().port();
    let callers = [caller(0, false), caller(1, true), caller(2, false)];
    let url = network.connect_all(&callers, Node::Participant(0), port).unwrap();
    let address = url.strip_prefix("http://").unwrap();
    let mut caller = TcpStream::connect(address).await.unwrap();
    let mut callee = in_the_end(server.accept()).await.unwrap().0;
    works(&mut caller, &mut callee).await;
    let [first, own, third] = network.links() else { panic!("{:?}", network.links()) };
    for link in [first, third] {
        link.spoil(1, Condition::cut());
    }
    works(&mut caller, &mut callee).await;
    own.spoil(2, Condition::cut());
    caller.write_all(b"late").await.unwrap();
    hears_nothing(&mut callee).await;
    own.mend(2);
    hears(&mut callee, "late").await;
}

#[tokio::test]
async fn an_entrance_is_for_its_callers_alone() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut network = Network::default();
    let port = server.local_addr().unwrap().port();
    let callers = [caller(0, false), caller(1, false)];
    let url = network.connect_all(&callers, Node::Participant(0), port).unwrap();
    let mut stranger = TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    is_reset(&mut stranger).await;
}
