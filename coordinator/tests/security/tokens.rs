//! Bearer tokens and roles.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, to_bytes};
use axum::http::Request;
use bytes::Bytes;
use concord_participant::attach;
use concord_proto::v1::*;
use concord_proto::{Coordinators, Credentials};
use concord_tests::{Agreeable, refusal, until};
use futures_util::StreamExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

use super::program::{Concord, token};

/// A coordinator that wants tokens, and one for each role.
struct World {
    concord: Concord,
    shop: Credentials,
    desk: Credentials,
    ann: Credentials,
    bob: Credentials,
}

const SHOP: &str = "attached://shop";

fn shows(token: &str) -> Credentials {
    Credentials::new().token(token).unwrap()
}

impl World {
    async fn start() -> World {
        let mut concord = Concord::new();
        let file = concord.path("tokens.toml");
        let shop = token(&file, "shop", &["--role", "participant", "--participant", SHOP]).await;
        let desk = token(&file, "desk", &["--role", "initiator"]).await;
        let ann = token(&file, "ann", &["--role", "operator"]).await;
        let bob = token(&file, "bob", &["--role", "viewer"]).await;
        concord.configure(&format!(
            "[security]\ntokens = {file:?}\n[participants]\nallow = ['attached://*', 'http://127.0.0.1:*']\n\
             [calls]\ntimeout_ms = 100\n[log]\nfilter = 'debug'\n"
        ));
        concord.start(&shows(&ann)).await;
        let [shop, desk, ann, bob] = [shop, desk, ann, bob].map(|token| shows(&token));
        World { concord, shop, desk, ann, bob }
    }

    /// Attaches the shop, and waits until the coordinator has it.
    async fn attach_shop(&self) {
        let coordinators = Coordinators::connect_lazy_with(&self.concord.url(), self.shop.clone()).unwrap();
        tokio::spawn(attach(Agreeable, coordinators, SHOP.to_owned(), std::future::pending()));
        until("it is attached", async || {
            let known =
                self.concord.operator(&self.bob).list_participants(ListParticipantsRequest {}).await?;
            let known = known.into_inner().participants;
            Ok(known.iter().any(|one| one.address == SHOP && one.streams > 0).then_some(()))
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_does_what_its_role_says_and_no_more() {
    let world = World::start().await;
    let World { concord, shop, desk, ann, bob } = &world;
    world.attach_shop().await;
    let done = concord.execute(desk, SHOP).await.unwrap().transaction.unwrap();
    assert_eq!(done.state(), TransactionState::Committed);

    let gtid = done.gtid;
    let get = GetRequest { gtid: gtid.clone() };
    for anybody in [shop, desk, ann, bob] {
        concord.api(anybody).get(get.clone()).await.unwrap();
    }
    for (whose, credentials) in [("shop", shop), ("ann", ann), ("bob", bob)] {
        let answer = refusal(concord.execute(credentials, SHOP).await);
        assert_eq!(answer, (Code::PermissionDenied, "ROLE_MISSING".into()), "{whose}");
    }
    for (whose, credentials) in [("shop", shop), ("desk", desk)] {
        let answer = refusal(concord.status(credentials).await);
        assert_eq!(answer, (Code::PermissionDenied, "ROLE_MISSING".into()), "{whose}");
    }
    let drain = DrainRequest::default();
    let answer = refusal(concord.operator(bob).drain(drain).await.map(drop));
    assert_eq!(answer, (Code::PermissionDenied, "ROLE_MISSING".into()));
    let nobody = [(Credentials::new(), "NO_TOKEN"), (shows("concord_0000"), "BAD_TOKEN")];
    for (credentials, reason) in nobody {
        let answer = refusal(concord.execute(&credentials, SHOP).await);
        assert_eq!(answer, (Code::Unauthenticated, reason.into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_participant_speaks_for_itself_only() {
    let world = World::start().await;
    let first = AttachRequest { participant: "attached://payment".into(), ..AttachRequest::default() };
    let attached = world.concord.attachment(&world.shop).attach(tokio_stream::once(first)).await;
    assert_eq!(refusal(attached.map(drop)), (Code::PermissionDenied, "OTHER_PARTICIPANT".into()));
    let begun = world.concord.api(&world.desk).begin(BeginRequest::default()).await.unwrap().into_inner();
    let join = |participant: &str| RegisterBranchRequest {
        gtid: begun.gtid.clone(),
        kind: BranchKind::Tcc.into(),
        participant: participant.to_owned(),
        registration_key: participant.to_owned(),
        action: "take".into(),
        ..RegisterBranchRequest::default()
    };
    let mut api = world.concord.api(&world.shop);
    let answer = refusal(api.register_branch(join("attached://payment")).await);
    assert_eq!(answer, (Code::PermissionDenied, "OTHER_PARTICIPANT".into()));
    let joined = api.register_branch(join(SHOP)).await.unwrap().into_inner();
    // Nor does another one vote for its branch.
    let file = world.concord.path("tokens.toml");
    let payment =
        token(&file, "payment", &["--role", "participant", "--participant", "attached://payment"]).await;
    let payment = shows(&payment);
    let vote = ReportVoteRequest {
        gtid: begun.gtid.clone(),
        branch_id: joined.branch_id,
        vote: Vote::No.into(),
        reason: "a test".into(),
    };
    let answer = until("payment is known", async || {
        match world.concord.api(&payment).report_vote(vote.clone()).await {
            Err(status) if status.code() == Code::Unauthenticated => Ok(None),
            answer => Ok(Some(refusal(answer))),
        }
    });
    assert_eq!(answer.await.unwrap(), (Code::PermissionDenied, "OTHER_PARTICIPANT".into()));
    api.report_vote(vote).await.unwrap();

    // Nor has an initiator others called than its token is for.
    let clerk = token(&file, "clerk", &["--role", "initiator", "--participant", SHOP]).await;
    let clerk = shows(&clerk);
    until("the clerk is known", async || match world.concord.execute(&clerk, "attached://payment").await {
        Err(status) if status.code() == Code::Unauthenticated => Ok(None),
        answer => Ok(Some(refusal(answer))),
    })
    .await
    .map(|answer| assert_eq!(answer, (Code::PermissionDenied, "OTHER_PARTICIPANT".into())))
    .unwrap();
    world.attach_shop().await;
    world.concord.execute(&clerk, SHOP).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_on_record_under_the_name_of_the_token() {
    let world = World::start().await;
    // It takes connections, and never answers: whether it was reached nobody knows, and it has to be told of the end.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let participant = format!("http://{}", silent.local_addr().unwrap());
    let branch = BranchRequest {
        kind: BranchKind::Tcc.into(),
        participant,
        action: "take".into(),
        payload: Default::default(),
    };
    let request = ExecuteRequest {
        branches: vec![branch],
        timeout_ms: 300,
        wait: Wait::Decided.into(),
        ..ExecuteRequest::default()
    };
    let begun = world.concord.api(&world.desk).execute(request).await.unwrap().into_inner();
    let begun = begun.transaction.unwrap();
    assert_eq!(begun.state(), TransactionState::RollingBack);
    let park = |operator: &str| ParkRequest {
        gtid: begun.gtid.clone(),
        operator: operator.into(),
        reason: "a test".into(),
    };
    let mut operator = world.concord.operator(&world.ann);
    operator.park(park("root")).await.unwrap();
    let get = GetRequest { gtid: begun.gtid.clone() };
    until("the order is on record", async || {
        let answer = world.concord.api(&world.bob).get(get.clone()).await?.into_inner();
        Ok(format!("{answer:?}").contains("root (ann)").then_some(()))
    })
    .await
    .unwrap();
    // On a machine that does not say who its user is, the token is name enough, and without one somebody has to say it.
    let concord = &world.concord;
    let dave = token(&concord.path("tokens.toml"), "dave", &["--role", "operator"]).await;
    std::fs::write(concord.path("dave"), dave).unwrap();
    let url = concord.url();
    let order = ["tx", "retry", &begun.gtid, "--address", &url];
    let nobody = concord.command(&order).await;
    let said = String::from_utf8(nobody.stderr).unwrap();
    assert!(nobody.status.code() == Some(2) && said.contains("--operator NAME"), "{said}");
    let order = [&order[..], &["--token-file", "dave"]].concat();
    // The file of tokens has changed: soon it is read again.
    until("dave is known", async || Ok(concord.command(&order).await.status.success().then_some(())))
        .await
        .unwrap();
    until("the order is on record", async || {
        let history =
            concord.api(&world.bob).get(get.clone()).await?.into_inner().transaction.unwrap().history;
        Ok(history.iter().any(|event| event.detail.ends_with(" by dave")).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_json_and_probes() {
    let world = World::start().await;
    let client = reqwest::Client::new();
    let get = async |path: &str, authorization: Option<&str>| {
        let mut request = client.get(format!("{}{path}", world.concord.url()));
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    for open in ["/livez", "/readyz", "/console/", "/v1/openapi.json"] {
        assert_eq!(get(open, None).await.0, 200, "{open}");
    }
    let token = token(&world.concord.path("more.toml"), "nobody", &["--role", "viewer"]).await;
    for closed in ["/metrics", "/v1/status", "/v1/transactions"] {
        for authorization in [None, Some("Bearer x"), Some(&*format!("Bearer {token}"))] {
            let (status, problem) = get(closed, authorization).await;
            assert_eq!(status, 401, "{closed}: {problem}");
            let problem: Value = serde_json::from_str(&problem).unwrap();
            let reason = if authorization.is_none() { "NO_TOKEN" } else { "BAD_TOKEN" };
            assert_eq!(problem["reason"], reason);
        }
    }
    // Who shows none is answered before it has sent what it has to say.
    let endless = tokio::net::TcpStream::connect(world.concord.address.socket()).await.unwrap();
    let (mut answer, mut ask) = endless.into_split();
    let head = "POST /v1/execute HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n{";
    ask.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    answer.read_exact(&mut first).await.unwrap();
    assert_eq!(std::str::from_utf8(&first).unwrap(), "HTTP/1.1 401");
    // The command line, with a token in a file, without, and of another role.
    let concord = &world.concord;
    let url = concord.url();
    let known = concord.path("known");
    let status = ["status", "--address", &url];
    let without = concord.command(&status).await;
    let said = String::from_utf8(without.stderr).unwrap();
    assert!(
        !without.status.success() && said.contains("NO_TOKEN") && said.contains("CONCORD_TOKEN"),
        "{said}"
    );
    let carol = super::program::token(&concord.path("tokens.toml"), "carol", &["--role", "viewer"]).await;
    std::fs::write(&known, format!("{carol}\n")).unwrap();
    let with = [&status[..], &["--token-file", known.to_str().unwrap()]].concat();
    // The file of tokens has changed: soon it is read again.
    until("carol is known", async || Ok(concord.command(&with).await.status.success().then_some(())))
        .await
        .unwrap();
    let page = get("/metrics", Some(&format!("Bearer {carol}"))).await;
    assert_eq!(page.0, 200);
    assert!(page.1.contains("concord_callers_turned_away_total{reason=\"no_token\"} "), "{}", page.1);
    let log = concord.process.log();
    assert!(
        log.contains("a call was turned away") && !log.contains(&carol) && !log.contains(&token),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_do_not_see_each_other_and_have_limits_of_their_own() {
    let mut concord = Concord::new();
    let (tokens, tenants) = (concord.path("tokens.toml"), concord.path("tenants.toml"));
    let made = async |name: &str, role: &str, tenant: &[&str]| {
        shows(&token(&tokens, name, &[&["--role", role], tenant].concat()).await)
    };
    let shop = made("shop", "initiator", &["--tenant", "shop"]).await;
    let shop_viewer = made("shop-viewer", "viewer", &["--tenant", "shop"]).await;
    let shop_operator = made("shop-operator", "operator", &["--tenant", "shop"]).await;
    let bank = made("bank", "initiator", &["--tenant", "bank"]).await;
    let ann = made("ann", "operator", &[]).await;
    std::fs::write(
        &tenants,
        "[[tenant]]\nname = 'shop'\nlive_transactions_max = 2\n\
         [[tenant]]\nname = 'bank'\nbegins_per_second = 1\nlive_transactions_max = 1000\n",
    )
    .unwrap();
    concord.configure(&format!("[security]\ntokens = {tokens:?}\ntenants = {tenants:?}\n"));
    concord.start(&ann).await;
    let begin = async |credentials: &Credentials, key: &str| {
        let request =
            BeginRequest { idempotency_key: key.into(), timeout_ms: 60_000, ..BeginRequest::default() };
        concord.api(credentials).begin(request).await.map(|answer| answer.into_inner().gtid)
    };

    // The same key is another one's.
    let of_shop = begin(&shop, "order 7").await.unwrap();
    assert_eq!(begin(&shop, "order 7").await.unwrap(), of_shop);
    let of_bank = begin(&bank, "order 7").await.unwrap();
    assert_ne!(of_bank, of_shop);

    // Limits: of one, and not of the other.
    begin(&shop, "").await.unwrap();
    let full = (Code::ResourceExhausted, "TENANT_TOO_MANY_LIVE".into());
    assert_eq!(refusal(begin(&shop, "").await), full);
    let mut too_fast = 0;
    for _ in 0..5 {
        match begin(&bank, "").await {
            Ok(_) => {}
            answer => {
                assert_eq!(refusal(answer), (Code::ResourceExhausted, "TENANT_TOO_FAST".into()));
                too_fast += 1;
            }
        }
    }
    assert!(too_fast > 0);

    // What is another's is not there.
    let unknown = (Code::NotFound, "UNKNOWN_GTID".to_owned());
    let gtid = || of_bank.clone();
    assert_eq!(refusal(concord.api(&shop).get(GetRequest { gtid: gtid() }).await), unknown);
    let rollback = RollbackRequest { gtid: gtid(), ..RollbackRequest::default() };
    assert_eq!(refusal(concord.api(&shop).rollback(rollback).await), unknown);
    let commit = CommitRequest { gtid: gtid(), ..CommitRequest::default() };
    assert_eq!(refusal(concord.api(&shop).commit(commit).await), unknown);
    let join = RegisterBranchRequest {
        gtid: gtid(),
        kind: BranchKind::Xa.into(),
        participant: "http://127.0.0.1:1".into(),
        registration_key: "k".into(),
        ..RegisterBranchRequest::default()
    };
    assert_eq!(refusal(concord.api(&shop).register_branch(join).await), unknown);
    let vote = ReportVoteRequest { gtid: gtid(), branch_id: 1, vote: Vote::Yes.into(), ..Default::default() };
    assert_eq!(refusal(concord.api(&shop).report_vote(vote).await), unknown);
    let watch = WatchRequest { gtid: gtid() };
    assert_eq!(refusal(concord.api(&shop).watch(watch).await.map(drop)), unknown);
    let mut orders = concord.operator(&shop_operator);
    let retry = RetryRequest { gtid: gtid(), ..RetryRequest::default() };
    assert_eq!(refusal(orders.retry(retry).await), unknown);
    let park = ParkRequest { gtid: gtid(), reason: "why".into(), ..ParkRequest::default() };
    assert_eq!(refusal(orders.park(park).await), unknown);
    let outcome = Outcome::RolledBack.into();
    let resolve = ResolveRequest { gtid: gtid(), outcome, reason: "why".into(), ..ResolveRequest::default() };
    assert_eq!(refusal(orders.resolve(resolve).await), unknown);
    let drain = refusal(orders.drain(DrainRequest::default()).await.map(drop));
    assert_eq!(drain, (Code::PermissionDenied, "ROLE_MISSING".into()), "it would end the others' too");

    let listed = async |credentials: &Credentials, tenant: &str| {
        let request = ListRequest { tenant: tenant.into(), ..ListRequest::default() };
        let list = concord.api(credentials).list(request).await?.into_inner().transactions;
        Ok::<_, tonic::Status>(list.into_iter().map(|one| one.tenant).collect::<Vec<_>>())
    };
    assert_eq!(listed(&shop_viewer, "").await.unwrap(), ["shop", "shop"]);
    assert_eq!(listed(&ann, "shop").await.unwrap(), ["shop", "shop"]);
    assert!(listed(&ann, "").await.unwrap().contains(&"bank".to_owned()));
    assert_eq!(refusal(listed(&shop_viewer, "bank").await), (Code::InvalidArgument, "INVALID_FIELD".into()));

    // What has ended counts no more; and is still one's own. Whose order it was is on record, where it was not its initiator's.
    let rollback = RollbackRequest { gtid: of_shop.clone(), ..RollbackRequest::default() };
    let ended = concord.api(&shop_operator).rollback(rollback).await.unwrap().into_inner();
    assert_eq!(ended.transaction.unwrap().reason, "asked for by shop-operator");
    until("there is room", async || Ok(begin(&shop, "").await.ok())).await.unwrap();
    let ended = concord.api(&shop).get(GetRequest { gtid: of_shop.clone() }).await.unwrap().into_inner();
    assert_eq!(ended.transaction.unwrap().tenant, "shop");
    let ended = refusal(concord.api(&bank).get(GetRequest { gtid: of_shop }).await);
    assert_eq!(ended, unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_gives_no_orders_by_grpc() {
    let mut concord = Concord::new();
    concord.configure("");
    concord.start(&Credentials::new()).await;
    let drain = format!("{}/concord.v1.Operator/Drain", concord.url());
    let client = reqwest::Client::new();
    // What a page of another site can send without being asked for leave, and what one of this site can.
    let bare = client.post(&drain).body(vec![0; 5]);
    let plain = client.post(&drain).header("content-type", "text/plain").body(vec![0; 5]);
    let own = client.post(&drain).header("content-type", "application/grpc").header("origin", concord.url());
    for request in [bare, plain, own.body(vec![0; 5])] {
        assert_eq!(request.send().await.unwrap().status().as_u16(), 415);
    }
    assert!(!concord.status(&Credentials::new()).await.unwrap().draining);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_long_is_answered_by_either_version_of_http() {
    const LIMIT_BYTES: usize = 1_000_000;
    let (mut concord, anybody) = (Concord::new(), Credentials::new());
    concord.configure(&format!("[limits]\npayload_bytes_max = {LIMIT_BYTES}\n"));
    concord.start(&anybody).await;
    let url = format!("{}/v1/execute", concord.url());
    // More than may be on the way.
    const PARTS: usize = 16;
    for is_http2 in [false, true] {
        let client = Client::builder(TokioExecutor::new()).http2_only(is_http2).build_http::<Body>();
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sent);
        let part = Bytes::from(vec![b' '; LIMIT_BYTES]);
        let parts = futures_util::stream::iter(std::iter::repeat_n(part, PARTS)).map(move |part| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Infallible>(part)
        });
        let request = Request::post(&url).header("content-type", "application/json");
        let request = request.body(Body::from_stream(parts)).unwrap();
        let answer = client.request(request).await.unwrap();
        let (head, body) = answer.into_parts();
        let problem = to_bytes(Body::new(body), 10_000).await.unwrap();
        let problem: Value = serde_json::from_slice(&problem).unwrap();
        assert_eq!((head.status.as_u16(), &problem["status"]), (413, &413.into()), "{problem}");
        assert_eq!(head.headers["content-type"], "application/problem+json");
        // A reset stream could be ahead of its answer, which many a client then does not look at.
        until("all is taken from it, be it for nothing", async || {
            Ok((sent.load(Ordering::SeqCst) == PARTS).then_some(()))
        })
        .await
        .unwrap();
    }
    // One that only says so need not send it.
    let head = format!(
        "POST /v1/execute HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        concord.address.socket(),
        1_000_000_000_000_000_000_u64,
    );
    let mut connection = tokio::net::TcpStream::connect(concord.address.socket()).await.unwrap();
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    connection.read_exact(&mut status).await.unwrap();
    assert_eq!(status, *b"HTTP/1.1 413");
}
