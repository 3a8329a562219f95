//! A participant that listens, as the SDK makes it.

use std::time::Duration;

use concord_participant::{HandlerError, MySql, ParticipantServer, TccBranch};
use concord_proto::v1::participant_client::ParticipantClient;
use concord_proto::v1::{PrepareRequest, TransactionState};
use concord_sandbox::{Address, Flavor, Server, ServerOptions};
use concord_tests::until;
use tonic::Code;

use super::authority::Authority;
use super::program::Concord;

async fn agree(_: TccBranch<MySql>, _: bytes::Bytes) -> Result<(), HandlerError> {
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_participant_with_tls_is_called_by_the_coordinator_and_by_nobody_else() {
    let database = Server::start(ServerOptions::new(Flavor::MariaDb)).await.unwrap();
    database.create_database("shop").await.unwrap();
    let (mut concord, participants, coordinators) = (Concord::new(), Authority::new(), Authority::new());
    let ca = concord.path("participants.pem");
    std::fs::write(&ca, &participants.pem).unwrap();
    let server = coordinators.server(concord.directory.path());
    let [own_pem, own_key] = coordinators.certify().write(concord.directory.path(), "own");
    concord.configure(&format!(
        "{server}[participants]\nallow = ['https://127.0.0.1:*']\n\
         [calls]\ntls_ca = {ca:?}\ntls_certificate = {own_pem:?}\ntls_key = {own_key:?}\n"
    ));
    concord.start(&coordinators.trusted()).await;

    let address = Address::reserve().unwrap();
    let url = format!("https://{}", address.socket());
    let certificate = participants.certify();
    let shop = ParticipantServer::builder()
        .database(database.url("shop"))
        .coordinator(concord.url())
        .credentials(coordinators.trusted())
        .address(&url)
        .tls(certificate.pem, certificate.key, &coordinators.pem)
        .tcc("anything", agree, agree, agree)
        .build()
        .await
        .unwrap();
    // It only listens: by a stream it would be called without a certificate of its own.
    let serving = tokio::spawn(shop.router().await.unwrap().serve(address.socket()));
    let done = concord.execute(&coordinators.trusted(), &url).await.unwrap().transaction.unwrap();
    assert_eq!(done.state(), TransactionState::Committed);
    assert_eq!(done.branches.len(), 2);

    // Whoever shows no certificate, or another authority's, calls no handler; the coordinator's would.
    let prepare = async |credentials: concord_proto::Credentials| {
        let channel =
            credentials.endpoint(&url, None).unwrap().connect_timeout(Duration::from_secs(30)).connect_lazy();
        ParticipantClient::new(channel).prepare(PrepareRequest::default()).await.unwrap_err()
    };
    for stranger in [participants.trusted(), participants.trusted_showing(&participants)] {
        let status = prepare(stranger).await;
        assert_ne!(status.code(), Code::InvalidArgument, "it was let in: {status:?}");
    }
    until("it is let in, and asks for nothing that can be done", async || {
        let status = prepare(participants.trusted_showing(&coordinators)).await;
        Ok((status.code() == Code::InvalidArgument).then_some(()))
    })
    .await
    .unwrap();
    serving.abort();
}
