//! What the server says about itself: reflection and health, also while it stops.

use concord_proto::v1::*;
use tokio_stream::StreamExt as _;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::support::*;

const SERVICES: [&str; 2] = ["concord.v1.Coordinator", "concord.v1.Operator"];

#[tokio::test]
async fn reflection_lists_the_services_and_their_files() {
    let alone = Alone::start().await;
    let ask = |question| ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let questions = vec![
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("concord.v1.Participant".into())),
    ];
    let mut reflection = ServerReflectionClient::new(alone.coordinator.channel());
    let answers = reflection.server_reflection_info(tokio_stream::iter(questions)).await.unwrap();
    let mut answers = answers.into_inner();
    let listed = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
    let mut names: Vec<_> = listed.service.iter().map(|service| service.name.as_str()).collect();
    names.sort_unstable();
    for service in SERVICES.into_iter().chain(["concord.v1.Participant", "grpc.health.v1.Health"]) {
        assert!(names.contains(&service), "{service} is not in {names:?}");
    }
    let file = answers.next().await.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(file, MessageResponse::FileDescriptorResponse(_)), "{file:?}");
}

#[tokio::test]
async fn health_while_it_serves_and_while_it_stops() {
    let mut alone = Alone::start().await;
    let mut health = HealthClient::new(alone.coordinator.channel());
    for service in SERVICES.into_iter().chain([""]) {
        let request = HealthCheckRequest { service: service.into() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = HealthCheckRequest { service: "concord.v1.Nobody".into() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);

    // A transaction under way keeps it from stopping at once.
    let gtid = alone.ready_to_commit().await;
    let mut changes = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let status = |answer: HealthCheckResponse| answer.status();
    assert_eq!(changes.next().await.unwrap().map(status).unwrap(), ServingStatus::Serving);
    alone.coordinator.process().terminate().unwrap();
    assert_eq!(changes.next().await.unwrap().map(status).unwrap(), ServingStatus::NotServing);

    let stopping = refused(Code::Unavailable, "SHUTTING_DOWN");
    concord_tests::until("nothing new begins", async || {
        Ok(alone.coordinator.api().begin(BeginRequest::default()).await.err().map(drop))
    })
    .await
    .unwrap();
    assert_eq!(refusal(alone.coordinator.api().begin(BeginRequest::default()).await), stopping);
    assert_eq!(refusal(alone.execute(execute(vec![branch()])).await), stopping);
    assert_eq!(alone.commit(&gtid).await.unwrap().state(), TransactionState::Committed, "the old may end");
    assert!(alone.coordinator.process().ended().await.unwrap().success());
}
