//! Host names that stand for several coordinators.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::transport::{Endpoint, Uri};

use super::{Credentials, Place, endpoint};

/// How often a name is looked up.
const INTERVAL: Duration = Duration::from_secs(5);

/// A host name, and how its coordinators are reached.
#[derive(Debug, Clone)]
pub(super) struct Name {
    uri: Uri,
    host: String,
    port: u16,
}

impl Name {
    /// `None`: it is an address.
    pub(super) fn of(endpoint: &Endpoint) -> Option<Name> {
        let uri = endpoint.uri().clone();
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        if host.parse::<IpAddr>().is_ok() {
            return None;
        }
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        Some(Name { uri, host, port })
    }

    /// One for each of the addresses; `None` where they are those of one machine: then the name itself does, for whose
    /// addresses are tried in turn whenever a connection is made.
    fn places(
        &self,
        addresses: &[SocketAddr],
        known: &[Place],
        credentials: &Credentials,
    ) -> Option<Vec<Place>> {
        let (mut four, mut six): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv4());
        // A machine may have one of each kind.
        let several = if six.len() > four.len() { &mut six } else { &mut four };
        several.sort();
        several.dedup();
        (several.len() > 1)
            .then(|| several.iter().filter_map(|address| self.place(*address, known, credentials)).collect())
    }

    fn place(&self, address: SocketAddr, known: &[Place], credentials: &Credentials) -> Option<Place> {
        let url = format!("{}://{address}", self.uri.scheme_str().unwrap_or("http"));
        let new = || {
            let channel =
                endpoint(&url, Some(&self.host), credentials).ok()?.origin(self.uri.clone()).connect_lazy();
            Some(Place { url: url.clone(), channel })
        };
        known.iter().find(|place| place.url == url).cloned().or_else(new)
    }
}

/// Looks names up, again and again, until nobody wants to know any more. `names` has one for each of the first places, `None`
/// where that stays as it is.
pub(super) async fn follow(
    names: Vec<Option<Name>>,
    found: watch::Sender<Arc<[Place]>>,
    look_up: impl AsyncFn(&Name) -> io::Result<Vec<SocketAddr>>,
    credentials: Credentials,
) {
    let first = Arc::clone(&found.borrow());
    let mut of_each: Vec<Vec<Place>> = first.iter().map(|place| vec![place.clone()]).collect();
    loop {
        let known = Arc::clone(&found.borrow());
        for ((name, place), places) in names.iter().zip(&*first).zip(&mut of_each) {
            let Some(name) = name else { continue };
            // While it cannot be looked up, what is known holds.
            if let Ok(addresses) = look_up(name).await {
                *places =
                    name.places(&addresses, &known, &credentials).unwrap_or_else(|| vec![place.clone()]);
            }
        }
        let places: Vec<Place> = of_each.concat();
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
pub(super) async fn look_up(name: &Name) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((name.host.as_str(), name.port)).await?.collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn name(url: &str) -> Option<Name> {
        Name::of(&endpoint(url, None, &Credentials::new()).unwrap())
    }

    fn urls(name: &Name, addresses: &[&str], known: &[Place]) -> Option<Vec<String>> {
        let addresses: Vec<SocketAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let places = name.places(&addresses, known, &Credentials::new())?;
        Some(places.into_iter().map(|place| place.url).collect())
    }

    #[tokio::test]
    async fn a_name_with_several_addresses_is_several_coordinators() {
        assert!(name("http://10.0.0.1:7600").is_none());
        assert!(name("http://[::1]:7600").is_none());
        assert_eq!(name("https://concord").unwrap().port, 443);
        let name = name("http://concord:7600").unwrap();
        assert_eq!((name.host.as_str(), name.port), ("concord", 7600));
        // One machine, or one of each kind.
        assert_eq!(urls(&name, &["10.0.0.1:7600"], &[]), None);
        assert_eq!(urls(&name, &["127.0.0.1:7600", "[::1]:7600"], &[]), None);
        let two = ["http://10.0.0.1:7600".to_owned(), "http://10.0.0.2:7600".to_owned()];
        assert_eq!(
            urls(&name, &["10.0.0.2:7600", "10.0.0.1:7600", "[::1]:7600", "10.0.0.1:7600"], &[]).unwrap(),
            two
        );
        let six = ["http://[fd00::1]:7600".to_owned(), "http://[fd00::2]:7600".to_owned()];
        assert_eq!(urls(&name, &["[fd00::2]:7600", "[fd00::1]:7600"], &[]).unwrap(), six);
    }

    /// Lookups of a name, one after the other.
    #[tokio::test(start_paused = true)]
    async fn they_come_and_go_as_the_name_says() {
        let url = "http://concord:7600";
        let fixed = "http://10.0.0.9:7600";
        let first: Vec<Place> = [url, fixed]
            .map(|url| Place {
                url: url.to_owned(),
                channel: endpoint(url, None, &Credentials::new()).unwrap().connect_lazy(),
            })
            .into();
        let names = first.iter().map(|place| name(&place.url)).collect();
        let (found, mut seen) = watch::channel::<Arc<[Place]>>(first.into());
        let answers = ["10.0.0.1 10.0.0.2", "10.0.0.2 10.0.0.3", "", "10.0.0.3"];
        let answers = Mutex::new(answers.into_iter());
        let look_up = async |name: &Name| match answers.lock().unwrap().next() {
            None | Some("") => Err(io::Error::other("no name server")),
            Some(answer) => Ok(answer
                .split(' ')
                .map(|address| SocketAddr::new(address.parse().unwrap(), name.port))
                .collect()),
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
        tokio::join!(follow(names, found, look_up, Credentials::new()), watching);
    }
}
