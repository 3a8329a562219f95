//! Connections: how many there may be, and that those on which nobody calls do not stay.

use std::sync::Arc;

use concord_proto::Credentials;
use concord_proto::v1::AttachRequest;
use concord_sandbox::PATIENCE;
use concord_tests::until;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use tokio_stream::StreamExt as _;

use super::authority::Authority;
use super::program::Concord;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty frame of settings.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection that has sent `first` and nothing more, encrypted where there is an authority. It may be closed already.
async fn silent(concord: &Concord, authority: Option<&Authority>, first: &[u8]) -> Box<dyn Stream> {
    let plain = TcpStream::connect(concord.address.socket()).await.unwrap();
    let mut stream: Box<dyn Stream> = match authority {
        None => Box::new(plain),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
            let connector = TlsConnector::from(Arc::new(config));
            Box::new(connector.connect("localhost".try_into().unwrap(), plain).await.unwrap())
        }
    };
    let _ = stream.write_all(first).await;
    stream
}

/// Waits until the coordinator closes a connection; whatever it says until then is passed over.
async fn closed(mut stream: Box<dyn Stream>) {
    let mut said = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said));
    let _ = end.await.unwrap();
}

/// What stands behind a name in the page of metrics.
fn value(page: &str, name: &str) -> u64 {
    let found = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_nobody_calls_is_closed_and_one_with_calls_stays() {
    for is_encrypted in [false, true] {
        let (mut concord, authority) = (Concord::new(), Authority::new());
        let authority = is_encrypted.then_some(&authority);
        let credentials = authority.map_or_else(Credentials::new, Authority::trusted);
        let server = match authority {
            None => "[server]\n".to_owned(),
            Some(authority) => authority.server(concord.directory.path()),
        };
        let allow = "[participants]\nallow = ['attached://*']\n";
        concord.configure(&format!("{server}first_call_timeout_ms = 500\n{allow}"));
        concord.start(&credentials).await;

        // A stream that is open for days, and a channel that was called on once. Both are older than those that are silent.
        let first = AttachRequest { participant: "attached://shop".into(), ..AttachRequest::default() };
        let first = tokio_stream::once(first).chain(tokio_stream::pending());
        let mut attached = concord.attachment(&credentials).attach(first).await.unwrap().into_inner();
        attached.message().await.unwrap().unwrap();
        let mut page = silent(&concord, authority, b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        let mut start = [0; 12];
        page.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");

        let begun = [&[][..], &PREFACE[..9], PREFACE, &[PREFACE, SETTINGS].concat(), b"GET /livez HTT"];
        for first in begun {
            let stream = silent(&concord, authority, first).await;
            tokio::select! {
                biased;
                message = attached.message() => panic!("a stream was cut: {message:?}"),
                () = closed(stream) => {}
            }
        }
        if authority.is_some() {
            // Nor does it wait for a handshake.
            closed(Box::new(TcpStream::connect(concord.address.socket()).await.unwrap())).await;
        }
        page.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        while !rest.windows(12).any(|part| part == b"HTTP/1.1 200") {
            assert_ne!(page.read_buf(&mut rest).await.unwrap(), 0, "it was cut");
        }
        tokio::select! {
            biased;
            message = attached.message() => panic!("a stream was cut: {message:?}"),
            status = concord.status(&credentials) => drop(status.unwrap()),
        }
        if authority.is_none() {
            let page = concord.metrics().await;
            let silent = value(&page, "concord_connections_refused_total{reason=\"silent\"}");
            assert_eq!(silent, begun.len() as u64);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_more_connections_than_there_may_be() {
    let (mut concord, anybody) = (Concord::new(), Credentials::new());
    concord.configure("[server]\nmax_connections = 3\n");
    concord.start(&anybody).await;
    // Each keeps its connection.
    let address = concord.address.socket();
    let one_more = async || {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.ok()?;
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.ok()?;
        assert_eq!(&start, b"HTTP/1.1 200");
        Some(stream)
    };
    let mut held = Vec::new();
    // Those of the start may still be there.
    until("three are open", async || {
        held.extend(one_more().await);
        Ok((held.len() == 3).then_some(()))
    })
    .await
    .unwrap();
    for _ in 0..3 {
        assert!(one_more().await.is_none());
    }
    let metrics = async |mut stream: TcpStream| {
        let ask = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        page
    };
    let page = metrics(held.pop().unwrap()).await;
    let value = |name: &str| value(&page, name);
    assert_eq!((value("concord_connections"), value("concord_connections_max")), (3, 3));
    assert!(value("concord_connections_refused_total{reason=\"too_many\"}") >= 3);
    assert_eq!(
        concord.process.log().matches("connections are refused").count(),
        1,
        "it is told now and then"
    );

    // One that ends makes room, and so does another limit.
    held.push(until("there is room", async || Ok(one_more().await)).await.unwrap());
    assert!(one_more().await.is_none());
    concord.configure("[server]\nmax_connections = 4\n");
    held.push(until("there is more room", async || Ok(one_more().await)).await.unwrap());
    assert!(one_more().await.is_none());
    // It is not that those of before had been silent for too long.
    let page = metrics(held.pop().unwrap()).await;
    let open = ["concord_connections", "concord_connections_max"].map(|name| self::value(&page, name));
    assert_eq!(open, [4, 4]);
}
