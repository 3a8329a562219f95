//! Where the coordinator listens, and whom it calls.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use concord_coordinator::config::{Config, Service};
use futures_util::future::join_all;
use tokio::net::{TcpStream, lookup_host};
use url::Url;

use super::Finding;
use crate::cli::client::{Client, ClientArgs};
use crate::cli::failure::Failure;
use crate::cli::view::counted;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the address can be listened on; or else, who does.
pub(super) async fn listen(config: &Config) -> Finding {
    let address = config.server.listen;
    let subject = "server.listen";
    match TcpListener::bind(address) {
        Ok(_) => Finding::ok("listen", subject, format!("{address} is free; no coordinator runs there")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => match status(address, config).await {
            Ok(found) => found,
            Err(failure)
                if ["NO_TOKEN", "BAD_TOKEN", "ROLE_MISSING"]
                    .iter()
                    .any(|why| failure.to_string().contains(why)) =>
            {
                Finding::ok(
                    "listen",
                    subject,
                    format!("a coordinator answers at {address}, and wants to know who asks"),
                )
            }
            Err(failure) if failure.is_unanswered() => {
                let found = format!("something listens at {address}, and has not answered in {PATIENCE:?}");
                let mend = "if it is a coordinator, it hangs or is overloaded: see its log, and what its process does; a restart \
                            is safe. If it is another program, end it, or listen elsewhere: server.listen";
                Finding::failure("listen", subject, found, mend)
            }
            Err(failure) if config.server.tls_certificate.is_some() => {
                let found = format!("{address} is taken; by whom cannot be told: {failure}");
                let mend = "CONCORD_CA names the authority of its certificate, CONCORD_CERTIFICATE and CONCORD_KEY what to show it";
                Finding::warning("listen", subject, found, mend)
            }
            Err(failure) => {
                let found = format!("{address} is taken, and not by a coordinator that answers: {failure}");
                let mend = "if it is a coordinator, it is about to stop, or has as many connections as it may have \
                            (server.max_connections): see its log. If it is another program, end it, or listen elsewhere: \
                            server.listen";
                Finding::failure("listen", subject, found, mend)
            }
        },
        Err(error) => {
            let mend =
                "listen on an address of this machine and on a port that this user may take: server.listen";
            Finding::failure("listen", subject, format!("{address}: {error}"), mend)
        }
    }
}

/// Of the coordinator that answers at this address.
async fn status(address: SocketAddr, config: &Config) -> Result<Finding, Failure> {
    let reached = match address.ip() {
        ip if !ip.is_unspecified() => address,
        IpAddr::V4(_) => (std::net::Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(_) => (std::net::Ipv6Addr::LOCALHOST, address.port()).into(),
    };
    let scheme = if config.server.tls_certificate.is_some() { "https" } else { "http" };
    let subject = "server.listen";
    let client = Client::connect(&ClientArgs::to(format!("{scheme}://{reached}"), PATIENCE, config)).await?;
    let status = client.status().await?;
    let found = format!(
        "a coordinator answers at {address}: version {}, epoch {}, {}, {} parked{}",
        status.version,
        status.epoch,
        counted(status.live_transactions, "live transaction"),
        status.parked_transactions,
        if status.draining { ", draining" } else { "" }
    );
    let own = env!("CARGO_PKG_VERSION");
    Ok(match (status.version == own, status.parked_transactions) {
        (false, _) => {
            Finding::warning("listen", subject, found, format!("this is version {own}: upgrade one of them"))
        }
        (true, 0) => Finding::ok("listen", subject, found),
        (true, _) => {
            let mend =
                "`concord tx list --parked` shows what waits for you; then `concord tx retry` or `resolve`";
            Finding::warning("listen", subject, found, mend)
        }
    })
}

/// An entry of `participants.allow`: whether its name resolves, and who answers there. Patterns cannot be asked, nor those who
/// open streams themselves.
pub(super) async fn participant(pattern: &str) -> Option<Finding> {
    let (scheme, rest) = pattern.split_once("://")?;
    let authority = rest.split('/').next()?;
    let (host, port) = authority.rsplit_once(':')?;
    if scheme.eq_ignore_ascii_case("attached") || host.contains('*') {
        return None;
    }
    let (check, subject) = ("participant", format!("participant {pattern}"));
    // Zero: any port.
    Some(match reach(host, port.parse().unwrap_or(0)).await {
        Reached::Name(ip) => Finding::ok(check, &subject, format!("its name stands for {ip}")),
        Reached::Listening => Finding::ok(check, &subject, "somebody listens there"),
        Reached::Unresolved(why) => {
            let mend = "correct the name in participants.allow, or the name service of this machine";
            Finding::warning(check, &subject, why, mend)
        }
        Reached::Silent(why) => {
            let mend = "start it, or see what stands between; if it has gone for good, take it from the list";
            Finding::warning(check, &subject, why, mend)
        }
    })
}

/// A `[[service]]`: each of its addresses.
pub(super) async fn service(service: &Service) -> Vec<Finding> {
    join_all(service.addresses.iter().map(|address| address_of(service, address))).await
}

async fn address_of(service: &Service, address: &str) -> Finding {
    let (check, subject) = ("service", format!("service {} at {address}", service.name));
    let url = Url::parse(address).ok();
    let place = url.as_ref().and_then(|url| Some((url.host_str()?, url.port_or_known_default()?)));
    // Of a configuration that was read it is an address.
    let (host, port) = place.unwrap_or_default();
    match reach(host, port).await {
        Reached::Name(_) | Reached::Listening => Finding::ok(check, &subject, "somebody listens there"),
        Reached::Unresolved(why) => {
            let mend = "correct the name in [[service]], or the name service of this machine";
            Finding::warning(check, &subject, why, mend)
        }
        Reached::Silent(why) => {
            let mend = "start it, or see what stands between; meanwhile the service's other addresses are called. If it has \
                        gone for good, take it out of [[service]], which needs no restart";
            Finding::warning(check, &subject, why, mend)
        }
    }
}

/// What there is at an address.
enum Reached {
    /// A name that can be resolved; of no port in particular.
    Name(IpAddr),
    Listening,
    /// Why its name cannot be resolved.
    Unresolved(String),
    /// Why nobody answers there.
    Silent(String),
}

/// `port` 0: any, so that there is only the name to be looked up.
async fn reach(host: &str, port: u16) -> Reached {
    let unresolved = |why: &str| Reached::Unresolved(format!("its name cannot be resolved: {why}"));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<SocketAddr> = match tokio::time::timeout(PATIENCE, lookup_host((host, port))).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return unresolved(&error.to_string()),
        Err(_) => return unresolved("no answer"),
    };
    let Some(first) = addresses.first() else { return unresolved("it has no address") };
    if port == 0 {
        return Reached::Name(first.ip());
    }
    match tokio::time::timeout(PATIENCE, TcpStream::connect(addresses.as_slice())).await {
        Ok(Ok(_)) => Reached::Listening,
        Ok(Err(error)) => Reached::Silent(error.to_string()),
        Err(_) => Reached::Silent(format!("no answer within {PATIENCE:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::view::Level;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    #[test]
    fn participants_that_can_be_asked_are() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = format!("http://{}", listener.local_addr().unwrap());
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let level = |pattern: &str| run(participant(pattern)).map(|finding| finding.level);
        assert_eq!(level(&there), Some(Level::Ok));
        assert_eq!(level(&format!("{there}/api/*")), Some(Level::Ok));
        assert_eq!(level(&format!("http://{gone}")), Some(Level::Warning));
        assert_eq!(level("http://127.0.0.1:*"), Some(Level::Ok));
        assert_eq!(level("http://[::1]:*"), Some(Level::Ok));
        assert_eq!(level("http://nobody.invalid:1"), Some(Level::Warning));
        for pattern in ["attached://*", "attached://shop", "https://*.svc.local:7101"] {
            assert_eq!(level(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn each_address_of_a_service_is_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let addresses = [
            format!("http://{there}/api"),
            format!("http://{gone}/api"),
            "http://nobody.invalid/api".to_owned(),
        ];
        let service = Service { name: "stock".to_owned(), addresses: addresses.to_vec() };
        let [reached, silent, unknown] = run(super::service(&service)).try_into().unwrap();
        assert_eq!(
            (reached.level, reached.subject),
            (Level::Ok, format!("service stock at {}", addresses[0]))
        );
        let mend = silent.mend.unwrap();
        assert!(silent.level == Level::Warning && mend.contains("take it out of [[service]]"), "{mend}");
        let found = unknown.found;
        assert!(unknown.level == Level::Warning && found.contains("cannot be resolved"), "{found}");
    }

    #[test]
    fn an_address_may_be_free_taken_or_of_another_machine() {
        let at = |listen: SocketAddr| {
            let mut config = Config::default();
            config.server.listen = listen;
            run(super::listen(&config))
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let taken = at(address);
        // It takes connections and says nothing, as a coordinator that hangs.
        assert!(
            taken.level == Level::Failure && taken.found.contains("and has not answered in 2s"),
            "{taken:?}"
        );
        assert!(!taken.found.contains("is taken"), "{taken:?}");
        // That call's connection is still in the queue: one more is what has to be waited for.
        drop(listener.accept().unwrap());
        let hangs_up = std::thread::spawn(move || drop(listener.accept()));
        let taken = at(address);
        assert!(taken.level == Level::Failure && taken.found.contains("is taken"), "{taken:?}");
        hangs_up.join().unwrap();
        assert_eq!(at(address).level, Level::Ok);
        // Kept for documentation (RFC 5737): no machine has it.
        assert_eq!(at("192.0.2.1:7600".parse().unwrap()).level, Level::Failure);
    }
}
