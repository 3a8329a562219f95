//! Certificates: of the coordinator, of those who call it, and of those that it calls.

use std::sync::Arc;

use concord_participant::attach;
use concord_proto::v1::participant_server::ParticipantServer;
use concord_proto::v1::{ListRequest, TransactionState};
use concord_proto::{Coordinators, Credentials};
use concord_sandbox::Address;
use concord_tests::{Agreeable, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use super::authority::Authority;
use super::program::Concord;

#[tokio::test(flavor = "multi_thread")]
async fn it_speaks_tls_and_nothing_else() {
    let (mut concord, authority) = (Concord::new(), Authority::new());
    let config = authority.server(concord.directory.path());
    concord.configure(&format!("{config}[participants]\nallow = ['attached://*']\n"));
    concord.start(&authority.trusted()).await;
    assert!(concord.status(&Authority::new().trusted()).await.is_err(), "of another authority");
    assert!(concord.status(&Credentials::new()).await.is_err(), "no public one has issued it");

    // A participant that attaches, and a transaction over its stream.
    let coordinators = Coordinators::connect_lazy_with(&concord.url(), authority.trusted()).unwrap();
    tokio::spawn(attach(Agreeable, coordinators, "attached://shop".into(), std::future::pending()));
    let done = concord.execute(&authority.trusted(), "attached://shop").await.unwrap();
    assert_eq!(done.transaction.unwrap().state(), TransactionState::Committed);

    // HTTP/1.1, as of older programs.
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let plain = TcpStream::connect(concord.address.socket()).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect("localhost".try_into().unwrap(), plain).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    // It may close without saying goodbye.
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("alive\n"), "{answer}");

    // Unencrypted it says nothing.
    let mut plain = TcpStream::connect(concord.address.socket()).await.unwrap();
    plain.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.windows(5).any(|part| part == b"alive"));

    // The command line.
    std::fs::write(concord.path("ca.pem"), &authority.pem).unwrap();
    let url = concord.url();
    let with = concord.command(&["status", "--address", &url, "--ca", "ca.pem"]).await;
    assert!(with.status.success(), "{with:?}");
    assert!(!concord.command(&["status", "--address", &url]).await.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_show_certificates_where_they_are_asked_for_them() {
    let (mut concord, authority) = (Concord::new(), Authority::new());
    let (config, ca) = (authority.server(concord.directory.path()), concord.path("clients.pem"));
    let clients = Authority::new();
    std::fs::write(&ca, &clients.pem).unwrap();
    concord.configure(&format!("{config}tls_client_ca = {ca:?}\n"));
    concord.start(&authority.trusted_showing(&clients)).await;
    assert!(concord.status(&authority.trusted()).await.is_err(), "it shows none");
    assert!(concord.status(&authority.trusted_showing(&authority)).await.is_err(), "of another authority");
    concord.status(&authority.trusted_showing(&clients)).await.unwrap();
}

/// A participant that listens, and wants to see its callers' certificates.
async fn listening(authority: &Authority, callers: &Authority) -> (Address, tokio::task::JoinHandle<()>) {
    let address = Address::reserve().unwrap();
    let certificate = authority.certify();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate.pem, certificate.key))
        .client_ca_root(tonic::transport::Certificate::from_pem(&callers.pem));
    let listener = tokio::net::TcpListener::bind(address.socket()).await.unwrap();
    let server = Server::builder().tls_config(tls).unwrap().add_service(ParticipantServer::new(Agreeable));
    let serving = tokio::spawn(async move {
        server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
    });
    (address, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_its_own_to_participants_and_trusts_their_authority() {
    let mut concord = Concord::new();
    let (participants, own) = (Authority::new(), Authority::new());
    let (address, _serving) = listening(&participants, &own).await;
    let participant = format!("https://{}", address.socket());
    let ca = concord.path("participants.pem");
    std::fs::write(&ca, &participants.pem).unwrap();
    let allow = format!("[participants]\nallow = ['https://127.0.0.1:*']\n[calls]\ntls_ca = {ca:?}\n");
    let [pem, key] = Authority::new().certify().write(concord.directory.path(), "own");
    concord.configure(&format!("{allow}tls_certificate = {pem:?}\ntls_key = {key:?}\n"));
    concord.start(&Credentials::new()).await;
    let anybody = Credentials::new();
    let request = concord.execute(&anybody, &participant);
    tokio::pin!(request);
    // Nobody is called before the right certificate is there: the branch is tried again and again.
    let begun = until("it has begun", async || {
        let list = concord.api(&anybody).list(ListRequest::default()).await?.into_inner();
        Ok(list.transactions.first().and_then(|one| one.branches.first()).map(|one| one.last_error.clone()))
    });
    tokio::select! {
        answer = &mut request => panic!("it was let in: {answer:?}"),
        begun = begun => drop(begun.unwrap()),
    }
    // What is written to the files is shown soon, without a restart.
    own.certify().write(concord.directory.path(), "own");
    let transaction = request.await.unwrap().transaction.unwrap();
    assert_eq!(transaction.state(), TransactionState::Committed);
}
