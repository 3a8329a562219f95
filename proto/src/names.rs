//! Host names that stand for several servers of one kind.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::transport::{Channel, Uri};

/// How often a name is looked up.
const INTERVAL: Duration = Duration::from_secs(5);

/// The way to one server.
#[derive(Debug, Clone)]
pub struct Place<C = Channel> {
    /// Which one it is: its URL.
    pub url: String,
    /// Connects by itself, when it is used.
    pub channel: C,
}

/// A host name, and how the servers behind it are reached.
#[derive(Debug, Clone)]
pub struct Name {
    uri: Uri,
    host: String,
    port: u16,
}

/// Finds the addresses behind a name.
pub type LookUp = dyn Fn(&Name) -> LookingUp + Send + Sync;
/// Until they are found.
pub type LookingUp = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Whether the host in a URL is this machine, by its address or as `localhost`.
pub fn is_this_machine(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

impl Name {
    /// `None`: what is in the URL is an address.
    pub fn of(uri: &Uri) -> Option<Name> {
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        if host.parse::<IpAddr>().is_ok() {
            return None;
        }
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        Some(Name { uri: uri.clone(), host, port })
    }

    /// The URL with the name in it.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Without brackets, and without the port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Where the URL says, or else that of its scheme.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// One for each of the addresses; `None` where they are those of one machine: then the name itself does, for whose
    /// addresses are tried in turn whenever a connection is made.
    fn places<C: Clone>(
        &self,
        addresses: &[SocketAddr],
        known: &[Place<C>],
        connect: impl Fn(&str, &Name) -> Option<C>,
    ) -> Option<Vec<Place<C>>> {
        let (mut four, mut six): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv4());
        // A machine may have one of each kind.
        let several = if six.len() > four.len() { &mut six } else { &mut four };
        several.sort();
        several.dedup();
        let place = |address: &&SocketAddr| {
            let url = format!("{}://{address}", self.uri.scheme_str().unwrap_or("http"));
            let known = known.iter().find(|place| place.url == url).cloned();
            known.or_else(|| Some(Place { channel: connect(&url, self)?, url }))
        };
        (several.len() > 1).then(|| several.iter().filter_map(place).collect())
    }
}

/// Looks names up, every five seconds, until nobody wants to know any more. `first` is what holds for each until it was found
/// once, and always where there is no name; `connect` makes the way to a URL behind a name. `found` is told whenever there
/// are others.
pub async fn follow<C: Clone>(
    first: Vec<(Place<C>, Option<Name>)>,
    found: watch::Sender<Arc<[Place<C>]>>,
    look_up: Arc<LookUp>,
    connect: impl Fn(&str, &Name) -> Option<C>,
) {
    let mut of_each: Vec<Vec<Place<C>>> = first.iter().map(|(place, _)| vec![place.clone()]).collect();
    loop {
        let known = Arc::clone(&found.borrow());
        for ((place, name), places) in first.iter().zip(&mut of_each) {
            let Some(name) = name else { continue };
            // While it cannot be looked up, what is known holds.
            if let Ok(addresses) = look_up(name).await {
                *places = name.places(&addresses, &known, &connect).unwrap_or_else(|| vec![place.clone()]);
            }
        }
        let places: Vec<Place<C>> = of_each.concat();
        if !places.iter().map(|place| &place.url).eq(known.iter().map(|place| &place.url)) {
            found.send_replace(places.into());
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = found.closed() => return,
        }
    }
}

/// As the system does.
pub fn look_up(name: &Name) -> LookingUp {
    let Name { host, port, .. } = name.clone();
    Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn name(url: &str) -> Option<Name> {
        Name::of(&url.parse().unwrap())
    }

    fn urls(name: &Name, addresses: &[&str]) -> Option<Vec<String>> {
        let addresses: Vec<SocketAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let places = name.places(&addresses, &[], |_, _| Some(()))?;
        Some(places.into_iter().map(|place| place.url).collect())
    }

    #[test]
    fn a_name_with_several_addresses_is_several_servers() {
        assert!(name("http://10.0.0.1:7600").is_none());
        assert!(name("http://[::1]:7600").is_none());
        assert_eq!(name("https://concord").unwrap().port, 443);
        let name = name("http://concord:7600").unwrap();
        assert_eq!((name.host.as_str(), name.port), ("concord", 7600));
        // One machine, or one of each kind.
        assert_eq!(urls(&name, &["10.0.0.1:7600"]), None);
        assert_eq!(urls(&name, &["127.0.0.1:7600", "[::1]:7600"]), None);
        let two = ["http://10.0.0.1:7600".to_owned(), "http://10.0.0.2:7600".to_owned()];
        assert_eq!(
            urls(&name, &["10.0.0.2:7600", "10.0.0.1:7600", "[::1]:7600", "10.0.0.1:7600"]).unwrap(),
            two
        );
        let six = ["http://[fd00::1]:7600".to_owned(), "http://[fd00::2]:7600".to_owned()];
        assert_eq!(urls(&name, &["[fd00::2]:7600", "[fd00::1]:7600"]).unwrap(), six);
    }

    /// Lookups of a name, one after the other.
    #[tokio::test(start_paused = true)]
    async fn they_come_and_go_as_the_name_says() {
        let url = "http://concord:7600";
        let fixed = "http://10.0.0.9:7600";
        let made = Arc::new(AtomicU32::new(0));
        let connect = |_: &str, _: &Name| Some(made.fetch_add(1, Ordering::Relaxed));
        let first = [url, fixed].map(|url| (Place { url: url.to_owned(), channel: u32::MAX }, name(url)));
        let (found, mut seen) = watch::channel::<Arc<[Place<u32>]>>(Arc::new([]));
        let answers = ["10.0.0.1 10.0.0.2", "10.0.0.2 10.0.0.3", "", "10.0.0.3"];
        let answers = Mutex::new(answers.into_iter());
        let look_up = move |name: &Name| -> LookingUp {
            let answer = match answers.lock().unwrap().next() {
                None | Some("") => Err(io::Error::other("no name server")),
                Some(answer) => Ok(answer
                    .split(' ')
                    .map(|address| SocketAddr::new(address.parse().unwrap(), name.port))
                    .collect()),
            };
            Box::pin(std::future::ready(answer))
        };
        let expected: [&[&str]; 3] = [
            &["http://10.0.0.1:7600", "http://10.0.0.2:7600", fixed],
            // What could not be looked up has changed nothing.
            &["http://10.0.0.2:7600", "http://10.0.0.3:7600", fixed],
            &[url, fixed],
        ];
        let watching = async {
            for expected in expected {
                seen.changed().await.unwrap();
                let urls: Vec<_> = seen.borrow_and_update().iter().map(|place| place.url.clone()).collect();
                assert_eq!(urls, expected);
            }
            drop(seen);
        };
        // It ends when nobody listens any more.
        tokio::join!(follow(first.into(), found, Arc::new(look_up), connect), watching);
        assert_eq!(made.load(Ordering::Relaxed), 3, "what is known is kept");
    }
}
