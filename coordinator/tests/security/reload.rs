//! What is read again while the coordinator runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use concord_proto::Credentials;
use concord_proto::v1::TransactionState;
use concord_proto::v1::participant_server::ParticipantServer;
use concord_tests::{Agreeable, refusal, until};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;
use tonic::Code;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::authority::Authority;
use super::program::{Concord, token};

#[tokio::test(flavor = "multi_thread")]
async fn limits_levels_and_targets_change_and_the_log_says_so() {
    let mut concord = Concord::new();
    let anybody = Credentials::new();
    concord.configure("[participants]\nallow = []\n");
    concord.start(&anybody).await;
    let answer = refusal(concord.execute(&anybody, "attached://shop").await);
    assert_eq!(answer, (Code::PermissionDenied, "PARTICIPANT_NOT_ALLOWED".into()));
    // What is wrong changes nothing, and is told.
    concord.configure("[participants]\nallow = ['nonsense']\n");
    let log = async |text: &str| {
        until(text, async || Ok(concord.process.log().contains(text).then_some(()))).await.unwrap();
    };
    log("the configuration has problems, and stays as it was").await;
    let refused = async |value: &str| {
        until(value, async || Ok(concord.metrics().await.contains(value).then_some(()))).await.unwrap();
    };
    refused("concord_configuration_refused 1").await;
    assert!(!concord.process.log().contains("were read again"), "{}", concord.process.log());
    std::fs::write(
        concord.path("concord.toml"),
        "[participants]\nallow = ['attached://*']\n[limits]\nbranches_max = 1\npage_size_max = 77\n[log]\nfilter = 'debug'\n",
    )
    .unwrap();
    log("the configuration has changed key=limits.branches_max from=1000 to=1").await;
    log("this needs a restart key=limits.page_size_max from=1000 to=77").await;
    log("key=log.filter from=\"info\" to=\"debug\"").await;
    refused("concord_configuration_refused 0").await;
    let answer = refusal(concord.execute(&anybody, "attached://shop").await);
    assert_eq!(answer, (Code::InvalidArgument, "INVALID_FIELD".into()), "two branches are too many now");

    // By signal too, though nothing has changed.
    let read_again = || concord.process.log().matches("were read again").count();
    let hang_up = async || {
        let before = read_again();
        let pid = Pid::from_raw(i32::try_from(concord.process.pid().unwrap()).unwrap()).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
        until("it is read again", async || Ok((read_again() > before).then_some(()))).await.unwrap();
    };
    hang_up().await;
    // Each time the lines about what has changed come right after that one.
    hang_up().await;
    let restart = concord.process.log().matches("this needs a restart").count();
    assert_eq!(restart, 1, "it is told once: {}", concord.process.log());
    // Until it is another difference, be it one that is not shown.
    for (number, told) in [
        (1, "key=alert.url from=\"\" to=\"http://127.0.0.1:1/***\""),
        (2, "key=alert.url"),
        (3, "key=alert.url"),
    ] {
        let text =
            format!("[alert]\nurl = 'http://127.0.0.1:1/s3cret{number}'\n[limits]\npage_size_max = 77\n");
        std::fs::write(concord.path("concord.toml"), text).unwrap();
        until("it is told again", async || {
            let log = concord.process.log();
            let lines =
                log.lines().filter(|line| line.contains("this needs a restart") && line.contains(told));
            Ok((lines.count() == number).then_some(()))
        })
        .await
        .unwrap();
    }
    assert!(!concord.process.log().contains("s3cret"));
}

/// A process that takes part, and counts its calls; until the test ends.
struct Process {
    url: String,
    calls: Arc<AtomicU64>,
}

impl Process {
    async fn start() -> Process {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let calls = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&calls);
        let count = move |request| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(request)
        };
        let server = Server::builder().add_service(ParticipantServer::with_interceptor(Agreeable, count));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        Process { url, calls }
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_a_service_come_and_go() {
    const SHOP: &str = "service://shop";
    let (mut concord, anybody) = (Concord::new(), Credentials::new());
    let [one, two] = [Process::start().await, Process::start().await];
    let service = |addresses: &[&str]| format!("[[service]]\nname = 'shop'\naddresses = {addresses:?}\n");
    concord.configure(&service(&[&one.url]));
    concord.start(&anybody).await;
    let execute = async || {
        let done = concord.execute(&anybody, SHOP).await.unwrap().transaction.unwrap();
        assert_eq!(done.state(), TransactionState::Committed, "{done:?}");
    };
    execute().await;
    assert_eq!((one.calls(), two.calls()), (4, 0), "two branches are tried and confirmed");
    let reload = async |config: &str, told: &str| {
        std::fs::write(concord.path("concord.toml"), config).unwrap();
        until(told, async || Ok(concord.process.log().contains(told).then_some(()))).await.unwrap();
    };
    reload(&service(&[&one.url, &two.url]), &format!("to=shop: {}, {}", one.url, two.url)).await;
    until("the one that came is called", async || {
        execute().await;
        Ok((two.calls() > 0).then_some(()))
    })
    .await
    .unwrap();
    reload(&service(&[&two.url]), &format!("to=shop: {}\n", two.url)).await;
    let (gone, before) = (one.calls(), two.calls());
    for _ in 0..5 {
        execute().await;
    }
    assert_eq!((one.calls(), two.calls()), (gone, before + 20));
    reload("", &format!("from=shop: {} to=\n", two.url)).await;
    let answer = refusal(concord.execute(&anybody, SHOP).await);
    assert_eq!(answer, (Code::PermissionDenied, "PARTICIPANT_NOT_ALLOWED".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_and_a_wrong_one_is_not() {
    let (mut concord, authority, next) = (Concord::new(), Authority::new(), Authority::new());
    concord.configure(&authority.server(concord.directory.path()));
    concord.start(&authority.trusted()).await;
    // With another's key it is worth nothing.
    std::fs::write(concord.path("server.pem"), next.certify().pem).unwrap();
    until("it is refused", async || {
        Ok(concord.process.log().contains("a file cannot be used").then_some(()))
    })
    .await
    .unwrap();
    let log = concord.process.log();
    assert!(
        log.contains("server.tls_key = ") && log.contains("is not the key of the certificate in "),
        "{log}"
    );
    concord.status(&authority.trusted()).await.unwrap();
    next.certify().write(concord.directory.path(), "server");
    until("the new one is shown", async || Ok(concord.status(&next.trusted()).await.ok())).await.unwrap();
    assert!(concord.status(&authority.trusted()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_taken_out_is_worth_nothing_whatever_else_is_wrong() {
    let (mut concord, authority) = (Concord::new(), Authority::new());
    let server = authority.server(concord.directory.path());
    let tokens = concord.path("tokens.toml");
    let ann = token(&tokens, "ann", &["--role", "operator"]).await;
    let ann = authority.trusted().token(&ann).unwrap();
    let jwks = concord.path("jwks.json");
    std::fs::write(&jwks, r#"{"keys":[]}"#).unwrap();
    let config =
        format!("{server}[security]\ntokens = {tokens:?}\njwks = {jwks:?}\njwt_audience = 'concord'\n");
    let entry = std::fs::read_to_string(&tokens).unwrap();
    concord.configure(&config);
    concord.start(&ann).await;
    concord.status(&ann).await.unwrap();
    std::fs::write(concord.path("server.pem"), "no certificate").unwrap();
    std::fs::write(&jwks, "no keys").unwrap();
    std::fs::write(concord.path("concord.toml"), format!("{config}[nonsense]\n")).unwrap();
    std::fs::write(&tokens, "").unwrap();
    until("the token is forgotten", async || {
        let answer = concord.status(&ann).await;
        Ok(answer.is_err_and(|status| status.code() == Code::Unauthenticated).then_some(()))
    })
    .await
    .unwrap();
    // The log says whose it was, and that nobody else gets in; what it is known by is not in it.
    let log = async |text: &str| {
        until(text, async || Ok(concord.process.log().contains(text).then_some(()))).await.unwrap();
    };
    log("the file of tokens has changed key=\"security.tokens\" tokens=removed: \"ann\"").await;
    log("there is no token in it, so that nobody gets in by one").await;
    std::fs::write(&tokens, &entry).unwrap();
    log("the file of tokens has changed key=\"security.tokens\" tokens=added: \"ann\"").await;
    let hash = entry.lines().find_map(|line| line.strip_prefix("sha256 = ")).unwrap().trim_matches('"');
    assert_eq!(hash.len(), 64);
    assert!(!concord.process.log().contains(hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_this_machine_it_does_not_listen_without() {
    let concord = Concord::new();
    let listen = format!("0.0.0.0:{}", concord.address.socket().port());
    let said = |output: std::process::Output| {
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let refused = said(concord.command(&["serve", "--listen", &listen]).await);
    assert!(
        refused.contains("beyond this machine") && refused.contains("security.allow_insecure"),
        "{refused}"
    );
    assert!(!concord.path("concord-data").exists(), "nothing was touched");
    std::fs::write(concord.path("c.toml"), "[security]\ntokens = 'nowhere'\n").unwrap();
    let refused = said(concord.command(&["config", "check", "c.toml"]).await);
    assert!(refused.contains("security.tokens = \"nowhere\": cannot be read"), "{refused}");
}
