//! Two coordinators on one store.

use concord_proto::v1::{BeginRequest, RollbackRequest, TransactionState};
use concord_sandbox::{Flavor, Server, ServerOptions};
use concord_tests::{refusal, until};
use tonic::{Code, Request};

use super::program::{Concord, token};

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_passed_on_with_its_token_and_its_trace() {
    let database = Server::start(ServerOptions::new(Flavor::MariaDb)).await.unwrap();
    database.create_database("concord").await.unwrap();
    let (mut owner, mut other) = (Concord::new(), Concord::new());
    let tokens = owner.path("tokens.toml");
    let desk = token(&tokens, "desk", &["--role", "initiator"]).await;
    let desk = concord_proto::Credentials::new().token(&desk).unwrap();
    for concord in [&mut owner, &mut other] {
        let url = database.url("concord");
        concord.configure(&format!(
            "[store]\nurl = {url:?}\n[security]\ntokens = {tokens:?}\n[log]\nfilter = 'info,concord_coordinator=debug'\n"
        ));
        concord.start(&desk).await;
    }
    let begin = BeginRequest { timeout_ms: 60_000, ..BeginRequest::default() };
    let gtid = owner.api(&desk).begin(begin).await.unwrap().into_inner().gtid;
    // Whose it is wants to know who calls, as every coordinator does.
    let mut request = Request::new(RollbackRequest { gtid: gtid.clone(), ..RollbackRequest::default() });
    let trace_id = "0af7651916cd43dd8448eb211c80319c";
    let traceparent = format!("00-{trace_id}-b7ad6b7169203331-01");
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    let answer = other.api(&desk).rollback(request).await.unwrap().into_inner();
    assert_eq!(answer.transaction.unwrap().state(), TransactionState::RolledBack);
    let told = |concord: &Concord| {
        let log = concord.process.log();
        log.lines()
            .any(|line| line.contains("rolling back") && line.contains(&gtid) && line.contains(trace_id))
    };
    assert!(told(&owner) && !told(&other));

    // While the owner cannot be reached, and its lease has not run out, the log says why nothing gets to it.
    let begin = BeginRequest { timeout_ms: 60_000, ..BeginRequest::default() };
    let gtid = owner.api(&desk).begin(begin).await.unwrap().into_inner().gtid;
    owner.process.kill9().unwrap();
    for _ in 0..2 {
        let request = RollbackRequest { gtid: gtid.clone(), ..RollbackRequest::default() };
        let status = other.api(&desk).rollback(request).await.unwrap_err();
        assert_eq!(refusal::<()>(Err(status.clone())), (Code::Unavailable, "ANOTHER_COORDINATOR".into()));
        assert!(status.message().contains("may be unable to reach (its log says so)"), "{status}");
    }
    let log = other.process.log();
    let warnings = log.lines().filter(|line| line.contains("WARN") && line.contains("cannot be reached"));
    let warnings: Vec<_> = warnings.collect();
    assert_eq!(warnings.len(), 1, "{log}");
    let address = format!("address=\"{}\"", owner.address.socket());
    assert!(warnings[0].contains(&address) && warnings[0].contains("refused"), "{warnings:?}");
    // And once it is taken over from, under which name it went.
    let name = format!("name=\"{}\"", owner.address.socket());
    until("it is taken over from", async || {
        let log = other.process.log();
        Ok(log.lines().any(|line| line.contains("took over") && line.contains(&name)).then_some(()))
    })
    .await
    .unwrap();
}
