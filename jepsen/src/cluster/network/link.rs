//! One link: a TCP proxy on a port of its own.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use concord_sandbox::Address;
use rand::RngExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::{Condition, Direction, End, Firewall, Node};

/// What is passed on at a time, in bytes.
const CHUNK: usize = 16 * 1024;
/// After how long a lost packet is sent again the first time; then twice as long, and so on.
const RETRANSMIT_AFTER: Duration = Duration::from_millis(200);

/// The link from one node to another. Dropped, it closes all of its connections.
#[derive(Debug)]
pub struct Link {
    from: Node,
    to: Node,
    address: Address,
    faults: Mutex<Faults>,
    callee: SocketAddr,
    weather: Arc<watch::Sender<Weather>>,
    accepting: AbortHandle,
    firewall: Option<Arc<Firewall>>,
}

/// The faults that are on, by number.
#[derive(Debug, Default)]
struct Faults {
    conditions: BTreeMap<u64, Condition>,
    half_open: BTreeMap<u64, HalfOpen>,
    /// Grows with each fault that makes connections half-open.
    generation: u64,
}

/// A fault that makes connections half-open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HalfOpen {
    /// Who has forgotten them.
    forgetful: End,
    /// The first generation of connections that are not meant.
    since: u64,
}

/// What a connection has to know.
#[derive(Debug, Clone, Default)]
struct Weather {
    condition: Condition,
    half_open: Vec<HalfOpen>,
    /// Of connections that are made now.
    generation: u64,
}

/// How a connection breaks.
enum Break {
    /// Both ends are told.
    Reset,
    /// One end is told, and the other when the fault is over.
    HalfOpen(HalfOpen),
}

impl Link {
    /// Opens a link to a port of this machine's.
    pub(super) fn open(from: Node, to: Node, port: u16, firewall: Option<Arc<Firewall>>) -> Result<Link> {
        let address = Address::reserve()?;
        let listener = std::net::TcpListener::bind(address.socket())?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let weather = Arc::new(watch::Sender::new(Weather::default()));
        let callee = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let accepting = tokio::spawn(accept(listener, callee, Arc::clone(&weather))).abort_handle();
        Ok(Link { from, to, address, faults: Mutex::default(), callee, weather, accepting, firewall })
    }

    /// Who opens connections.
    pub fn from(&self) -> Node {
        self.from
    }

    /// Who accepts them.
    pub fn to(&self) -> Node {
        self.to
    }

    /// The port at which the caller finds the callee.
    pub fn port(&self) -> u16 {
        self.address.socket().port()
    }

    /// The same as a URL: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.address.url()
    }

    /// Carries a connection that its caller has made elsewhere, from its beginning to its end.
    pub(super) fn carry(&self, caller: TcpStream) -> impl Future<Output = ()> + use<> {
        carry(caller, self.callee, self.weather.subscribe())
    }

    /// Makes it as bad as the condition says, until [`Link::mend`] with the same number.
    pub fn spoil(&self, fault: u64, condition: Condition) {
        let mut faults = self.faults();
        faults.conditions.insert(fault, condition);
        self.announce(&faults);
    }

    /// One end has forgotten every connection that there is now; the other does not know, and what it sends is lost. New
    /// connections are as good as ever. After [`Link::mend`] with the same number the other end is told (RST).
    pub fn forget(&self, fault: u64, end: End) {
        let mut faults = self.faults();
        faults.generation += 1;
        let since = faults.generation;
        faults.half_open.insert(fault, HalfOpen { forgetful: end, since });
        self.announce(&faults);
    }

    /// Ends a fault.
    pub fn mend(&self, fault: u64) {
        let mut faults = self.faults();
        faults.conditions.remove(&fault);
        faults.half_open.remove(&fault);
        self.announce(&faults);
    }

    fn announce(&self, faults: &Faults) {
        let condition = faults.conditions.values().fold(Condition::default(), |all, one| all.and(*one));
        if let Some(firewall) = &self.firewall {
            firewall.set(self.port(), condition.there.blocked, condition.back.blocked);
        }
        let half_open = faults.half_open.values().copied().collect();
        self.weather.send_replace(Weather { condition, half_open, generation: faults.generation });
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts connections, for ever. They end with this task.
async fn accept(listener: TcpListener, callee: SocketAddr, weather: Arc<watch::Sender<Weather>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((caller, _)) = accepted {
                    connections.spawn(carry(caller, callee, weather.subscribe()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, from its beginning to its end.
async fn carry(caller: TcpStream, callee: SocketAddr, mut weather: watch::Receiver<Weather>) {
    // A connection is not made through a link that lets nothing through.
    let open =
        weather.wait_for(|weather| !weather.condition.there.blocked && !weather.condition.back.blocked);
    let Ok(born) = open.await.map(|weather| weather.generation) else { return };
    // Whoever is not there refuses connections: the caller is told by the end of this one.
    let Ok(callee) = TcpStream::connect(callee).await else { return reset(caller) };
    if caller.set_nodelay(true).and(callee.set_nodelay(true)).is_err() {
        return;
    }
    let (mut caller_in, mut caller_out) = caller.into_split();
    let (mut callee_in, mut callee_out) = callee.into_split();
    let broken = {
        let there = pass(&mut caller_in, &mut callee_out, weather.clone(), End::Callee);
        let back = pass(&mut callee_in, &mut caller_out, weather.clone(), End::Caller);
        tokio::select! {
            // A direction that has ended well lets the other go on: its end was passed on.
            both = async { tokio::try_join!(there, back) } => both.err().map(|_| Break::Reset),
            fault = outlived(weather.clone(), born) => Some(Break::HalfOpen(fault)),
        }
    };
    let Some(broken) = broken else { return };
    let (Ok(caller), Ok(callee)) = (caller_in.reunite(caller_out), callee_in.reunite(callee_out)) else {
        return;
    };
    match broken {
        Break::Reset => {
            // Whoever is cut off is not told before he can hear it.
            let told = tell(caller, weather.clone(), End::Caller);
            tokio::join!(told, tell(callee, weather, End::Callee));
        }
        Break::HalfOpen(fault) => {
            let (forgetful, other, end) = match fault.forgetful {
                End::Caller => (caller, callee, End::Callee),
                End::Callee => (callee, caller, End::Caller),
            };
            reset(forgetful);
            swallow(other, weather, end, fault).await;
        }
    }
}

/// Resolves when one end forgets the connections of the generation `born`.
async fn outlived(mut weather: watch::Receiver<Weather>, born: u64) -> HalfOpen {
    loop {
        let fault = weather.borrow_and_update().half_open.iter().copied().find(|fault| fault.since > born);
        match fault {
            Some(fault) => return fault,
            None if weather.changed().await.is_err() => return std::future::pending().await,
            None => {}
        }
    }
}

/// Takes whatever comes and answers nothing, until the fault is over; then breaks the connection.
async fn swallow(mut stream: TcpStream, mut weather: watch::Receiver<Weather>, end: End, fault: HalfOpen) {
    let mut buffer = vec![0; CHUNK];
    let is_over =
        |weather: &Weather| !weather.half_open.contains(&fault) && !weather.condition.towards(end).blocked;
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => {
                if !matches!(read, Ok(1..)) {
                    return;
                }
            }
            over = weather.wait_for(is_over) => {
                drop(over);
                return reset(stream);
            }
        }
    }
}

/// Breaks the connection of one end, as soon as something arrives there.
async fn tell(stream: TcpStream, mut weather: watch::Receiver<Weather>, end: End) {
    let open = weather.wait_for(|weather| !weather.condition.towards(end).blocked).await.map(drop);
    // Without its link it ends anyway.
    if open.is_ok() {
        reset(stream);
    }
}

/// Passes on what comes from one side to the other, which is `end`, as the link lets it. Err: the connection breaks.
async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut weather: watch::Receiver<Weather>,
    end: End,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = from.read(&mut buffer).await?;
        // What was sent before the link was cut may be cut off on its way.
        let open = weather.wait_for(|weather| !weather.condition.towards(end).blocked).await;
        let now = open.map_err(io::Error::other)?.condition.towards(end);
        if chance(now.reset) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        tokio::time::sleep(delay(&now)).await;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}

fn delay(direction: &Direction) -> Duration {
    let mut delay = direction.delay + direction.jitter.mul_f64(rand::rng().random_range(0.0..=1.0));
    let mut again = RETRANSMIT_AFTER;
    while chance(direction.loss) {
        delay += again;
        again *= 2;
    }
    delay
}

fn chance(of: f64) -> bool {
    of > 0.0 && rand::rng().random_range(0.0..1.0) < of
}

/// Closes a connection by RST.
pub(super) fn reset(stream: TcpStream) {
    // Fails only when it is closed already.
    stream.set_zero_linger().ok();
}
