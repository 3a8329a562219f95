//! What is said to callers who come by the wrong way.

use std::sync::Arc;

use concord_proto::v1::GetRequest;
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::{Coordinators, Credentials, EndpointError, Place};
use tokio::net::TcpListener;
use tonic::Code;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Identity, Server, ServerTlsConfig};

use super::authority::Authority;
use super::program::Concord;

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_by_the_wrong_way_is_told_the_right_one() {
    let (mut plain, mut tls, mut mutual) = (Concord::new(), Concord::new(), Concord::new());
    let (authority, clients) = (Authority::new(), Authority::new());
    plain.configure("");
    plain.start(&Credentials::new()).await;
    let server = authority.server(tls.directory.path());
    tls.configure(&server);
    tls.start(&authority.trusted()).await;
    let ca = mutual.path("clients.pem");
    std::fs::write(&ca, &clients.pem).unwrap();
    mutual.configure(&format!("{server}tls_client_ca = {ca:?}\n"));
    mutual.start(&authority.trusted_showing(&clients)).await;

    let ca = tls.path("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    authority.certify().write(tls.directory.path(), "stranger");
    let trusting = ["--ca", ca.to_str().unwrap()];
    let stranger = [&trusting[..], &["--certificate", "stranger.pem", "--key", "stranger.key"]].concat();
    let certificate = "only who shows a certificate is let in there (server.tls_client_ca)";
    for (url, credentials, arguments, told) in [
        (plain.url(), authority.trusted(), &trusting[..], "no TLS is spoken there"),
        (
            tls.url(),
            Credentials::new(),
            &[][..],
            "TLS is spoken there: the address should begin with https://",
        ),
        (mutual.url(), authority.trusted(), &trusting[..], certificate),
        (
            mutual.url(),
            authority.trusted_showing(&authority),
            &stranger[..],
            "the certificate that is shown is none of those that are let in",
        ),
        (
            tls.url(),
            Credentials::new(),
            &[][..],
            "its certificate was issued by an authority that is not trusted",
        ),
    ] {
        let url = match told {
            "no TLS is spoken there" => url.replace("http:", "https:"),
            told if told.starts_with("TLS is spoken") => url.replace("https:", "http:"),
            _ => url,
        };
        // How the connection breaks is a race; what is told of it is not.
        for _ in 0..5 {
            let coordinators = Coordinators::connect_lazy_with(&url, credentials.clone()).unwrap();
            let answer = CoordinatorClient::new(coordinators).get(GetRequest { gtid: "x".into() }).await;
            let status = answer.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            assert!(status.message().contains(told) && !status.message().contains("transport"), "{status:?}");
            let command = tls.command(&[&["status", "--address", &url][..], arguments].concat()).await;
            let said = String::from_utf8(command.stderr).unwrap();
            assert!(
                !command.status.success() && said.contains(told) && !said.contains("transport"),
                "{said}"
            );
        }
    }
}

#[tokio::test]
async fn a_token_is_not_sent_where_anybody_can_read_it() {
    let concord = Concord::new();
    std::fs::write(concord.path("token"), "concord_7").unwrap();
    // Kept for documentation (RFC 5737): no machine has it.
    let there =
        ["status", "--address", "http://192.0.2.1:7600", "--token-file", "token", "--timeout-ms", "1"];
    let command = concord.command(&there).await;
    let said = String::from_utf8(command.stderr).unwrap();
    assert_eq!(command.status.code(), Some(2));
    assert!(said.contains("the token is not sent to 192.0.2.1 over http://"), "{said}");
    assert!(said.contains("use an https:// address, or --allow-insecure"), "{said}");
    let token = Credentials::new().token("concord_7").unwrap();
    let url = "http://127.0.0.1:7600,http://192.0.2.1:7600";
    let refused = Coordinators::connect_lazy_with(url, token.clone()).unwrap_err();
    assert!(matches!(refused, EndpointError::PlainToken { .. }), "{refused}");
    Coordinators::connect_lazy_with(url, token.clone().allow_insecure()).unwrap();
    // Nor to places that somebody else has found.
    let place = |url: &str| Place {
        url: url.to_owned(),
        channel: Endpoint::from_static("http://127.0.0.1:1").connect_lazy(),
    };
    let answer = async |url: &str, credentials: Credentials| {
        let (_found, places) = tokio::sync::watch::channel(Arc::from([place(url)]));
        let coordinators = Coordinators::following(places).with_token_of(credentials);
        let [all, one] = [coordinators.clone(), coordinators.only(place(url))]
            .map(|way| async { CoordinatorClient::new(way).get(GetRequest { gtid: "x".into() }).await });
        let [all, one] = [all.await, one.await].map(|answer| answer.unwrap_err().code());
        assert_eq!(all, one, "by each of them as by all");
        all
    };
    assert_eq!(answer("http://192.0.2.1:7600", token.clone()).await, Code::FailedPrecondition);
    assert_eq!(answer("http://192.0.2.1:7600", token.clone().allow_insecure()).await, Code::Unavailable);
    assert_eq!(answer("http://127.0.0.1:7600", token).await, Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_out_of_its_time_is_told_of_as_such() {
    let (concord, authority) = (Concord::new(), Authority::new());
    let ca = concord.path("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    // The last one ends before it begins: it is never valid, which is called expired.
    for (first, last) in [(2001, 2002), (4000, 4001), (2002, 2001)] {
        let certificate = authority.certify_in(first, last);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate.pem, certificate.key));
        let (_, health) = tonic_health::server::health_reporter();
        let server = Server::builder().tls_config(tls).unwrap().add_service(health);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));

        let told = "its certificate has expired, or is not valid yet, or one of the two clocks is wrong; ";
        let command = concord.command(&["status", "--address", &url, "--ca", ca.to_str().unwrap()]).await;
        let said = String::from_utf8(command.stderr).unwrap();
        assert!(!command.status.success(), "{said}");
        assert!(
            said.contains(&format!("hint: {told}look at the clock of this machine, and renew")),
            "{said}"
        );
        let coordinators = Coordinators::connect_lazy_with(&url, authority.trusted()).unwrap();
        let answer = CoordinatorClient::new(coordinators).get(GetRequest { gtid: "x".into() }).await;
        let status = answer.unwrap_err();
        assert!(
            status.message().contains(told) && status.message().contains("server.tls_certificate"),
            "{status}"
        );
    }
}

#[tokio::test]
async fn a_key_that_is_another_certificates_is_named() {
    let (concord, authority) = (Concord::new(), Authority::new());
    authority.certify().write(concord.directory.path(), "own");
    let other = authority.certify();
    other.write(concord.directory.path(), "other");
    for name in ["server", "calls"] {
        std::fs::write(
            concord.path("concord.toml"),
            format!("[{name}]\ntls_certificate = 'own.pem'\ntls_key = 'other.key'\n"),
        )
        .unwrap();
        let command = concord.command(&["config", "check"]).await;
        let said = String::from_utf8(command.stderr).unwrap();
        let why = "is not the key of the certificate in \"own.pem\"";
        let told = format!("error: {name}.tls_key = \"other.key\": {why} ({name}.tls_certificate)\n");
        assert_eq!((command.status.code(), said), (Some(2), told));
    }
    std::fs::remove_file(concord.path("concord.toml")).unwrap();
    let status = ["status", "--address", "https://127.0.0.1:1"];
    let keys = ["--certificate", "own.pem", "--key", "other.key"];
    let command = concord.command(&[&status[..], &keys].concat()).await;
    let said = String::from_utf8(command.stderr).unwrap();
    let told = "error: other.key (--key) is not the key of own.pem (--certificate)\n";
    assert_eq!((command.status.code(), said.as_str()), (Some(2), told));
    let credentials = authority.trusted().certificate(authority.certify().pem, other.key);
    let refused = credentials.endpoint("https://127.0.0.1:1", None).unwrap_err();
    assert!(matches!(refused, EndpointError::OtherKey), "{refused}");
}
