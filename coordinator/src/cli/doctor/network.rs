//! Where the coordinator listens, and whom it calls.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use concord_coordinator::config::Config;
use tokio::net::{TcpStream, lookup_host};

use super::Finding;
use crate::cli::client::{Client, ClientArgs};
use crate::cli::failure::Failure;

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
                    .any(|why| said(&failure).contains(why)) =>
            {
                Finding::ok(
                    "listen",
                    subject,
                    format!("a coordinator answers at {address}, and wants to know who asks"),
                )
            }
            Err(failure) if config.server.tls_certificate.is_some() => {
                let found = format!("{address} is taken; by whom cannot be told: {}", said(&failure));
                let mend = "CONCORD_CA names the authority of its certificate, CONCORD_CERTIFICATE and CONCORD_KEY what to show it";
                Finding::warning("listen", subject, found, mend)
            }
            Err(failure) => {
                let found = format!("{address} is taken, by what is no coordinator: {}", said(&failure));
                Finding::failure(
                    "listen",
                    subject,
                    found,
                    "end that program, or listen elsewhere: server.listen",
                )
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
        "a coordinator answers at {address}: version {}, epoch {}, {} live transactions, {} parked{}",
        status.version,
        status.epoch,
        status.live_transactions,
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

fn said(failure: &Failure) -> &str {
    match failure {
        Failure::Said { message, .. } => message,
        Failure::ClosedPipe => "the connection was closed",
    }
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
    let subject = format!("participant {pattern}");
    let asked = port.parse().unwrap_or(0);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<SocketAddr> = match tokio::time::timeout(PATIENCE, lookup_host((host, asked))).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Some(unresolved(&subject, &error.to_string())),
        Err(_) => return Some(unresolved(&subject, "no answer")),
    };
    let Some(first) = addresses.first() else { return Some(unresolved(&subject, "it has no address")) };
    if asked == 0 {
        // Any port.
        return Some(Finding::ok("participant", &subject, format!("its name stands for {}", first.ip())));
    }
    let connected = tokio::time::timeout(PATIENCE, TcpStream::connect(addresses.as_slice())).await;
    let why = match connected {
        Ok(Ok(_)) => return Some(Finding::ok("participant", &subject, "somebody listens there")),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {PATIENCE:?}"),
    };
    let mend = "start it, or see what stands between; if it has gone for good, take it from the list";
    Some(Finding::warning("participant", &subject, why, mend))
}

fn unresolved(subject: &str, why: &str) -> Finding {
    let mend = "correct the name in participants.allow, or the name service of this machine";
    Finding::warning("participant", subject, format!("its name cannot be resolved: {why}"), mend)
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
    fn an_address_may_be_free_taken_or_of_another_machine() {
        let at = |listen: SocketAddr| {
            let mut config = Config::default();
            config.server.listen = listen;
            run(super::listen(&config))
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let taken = at(address);
        assert!(taken.level == Level::Failure && taken.found.contains("is taken"), "{taken:?}");
        drop(listener);
        assert_eq!(at(address).level, Level::Ok);
        // Kept for documentation (RFC 5737): no machine has it.
        assert_eq!(at("192.0.2.1:7600".parse().unwrap()).level, Level::Failure);
    }
}
