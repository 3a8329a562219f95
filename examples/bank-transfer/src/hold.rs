//! The demo's test switch: keeps the coordinator's commits from a bank, so that there is time to kill somebody
//! between the vote and the commit.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use concord_participant::ParticipantServer;
use concord_sandbox::parent_gone;
use tonic::Status;
use tonic::codegen::http::Request;
use tonic::transport::Server;
use tower::filter::FilterLayer;

/// The path under which gRPC calls the method.
const COMMIT: &str = "/concord.v1.Participant/Commit";

/// Serves the participant until the demo goes away. While `hold` exists, Commit is answered with UNAVAILABLE
/// before the participant hears of it.
pub(crate) async fn serve(participant: ParticipantServer, listen: SocketAddr, hold: PathBuf) -> Result<()> {
    let turn_commits_away = move |request: Request<_>| match request.uri().path() == COMMIT && hold.exists() {
        true => Err(Status::unavailable("commits are held back by the demo's test switch")),
        false => Ok(request),
    };
    Server::builder()
        .tcp_nodelay(true)
        .layer(FilterLayer::new(turn_commits_away))
        .add_service(participant.service())
        .serve_with_shutdown(listen, parent_gone())
        .await?;
    participant.shutdown().await;
    Ok(())
}
