//! The demo's test switches: accidents between the coordinator and a service, at the service's door.
//!
//! A switch is a file, which is there while the switch is on. No service knows of them: they stand for a
//! network that loses and delays, and give the demo the time to kill somebody between two calls.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use concord_participant::ParticipantServer;
use concord_sandbox::parent_gone;
use futures_util::stream;
use tokio::signal::unix::{SignalKind, signal};
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::Server;

/// While it is on, Confirm and Commit are answered with UNAVAILABLE before the service hears of them.
pub(crate) const HOLD_PHASE_TWO: &str = "hold-phase-two";
/// The next Try is carried out, and its answer is lost. The switch goes off by itself.
pub(crate) const LOSE_REPLY: &str = "lose-the-reply-to-try";
/// The next Try does not arrive: it is left in the file [`CAUGHT`]. The switch goes off by itself.
pub(crate) const CATCH_TRY: &str = "catch-try";
/// A Try that was caught: a `concord.v1.TryRequest`.
pub(crate) const CAUGHT: &str = "caught-try";

/// The paths under which gRPC calls the methods.
const TRY: &str = "/concord.v1.Participant/Try";
const CONFIRM: &str = "/concord.v1.Participant/Confirm";
const COMMIT: &str = "/concord.v1.Participant/Commit";

/// A gRPC message comes after a byte for its compression and four for its length.
const FRAME_HEADER_BYTES: usize = 5;
/// The demo's payloads are far smaller.
const CAUGHT_BYTES_MAX: usize = 64 * 1024;

/// Waits until a service is to stop: the demo's when the demo goes away, one that stands alone at Ctrl-C or SIGTERM.
pub(crate) async fn told_to_stop(by_the_demo: bool) {
    if by_the_demo {
        return parent_gone().await;
    }
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// Serves the participant until it is to stop. `directory` is where its switches are, if it is the demo's.
pub(crate) async fn serve(
    participant: ParticipantServer,
    listen: SocketAddr,
    directory: Option<PathBuf>,
) -> Result<()> {
    let Some(directory) = directory else {
        // What any service says.
        return Ok(participant.serve(listen).await?);
    };
    let directory = Arc::<Path>::from(directory);
    let routes = Routes::new(participant.service()).into_axum_router();
    let routes = routes.layer(from_fn_with_state(directory, pass));
    Server::builder()
        .tcp_nodelay(true)
        .add_routes(routes.into())
        .serve_with_shutdown(listen, parent_gone())
        .await?;
    participant.shutdown().await;
    Ok(())
}

async fn pass(State(directory): State<Arc<Path>>, request: Request, next: Next) -> Response {
    match request.uri().path() {
        CONFIRM | COMMIT if directory.join(HOLD_PHASE_TWO).exists() => {
            Status::unavailable("held back by the demo's test switch").into_http()
        }
        TRY if goes_off(&directory, LOSE_REPLY) => {
            next.run(request).await;
            broken()
        }
        TRY if goes_off(&directory, CATCH_TRY) => {
            if let Err(error) = leave(&directory.join(CAUGHT), request).await {
                tracing::error!(%error, "a Try was lost for good");
            }
            // The caller waits for an answer until it has lost interest.
            std::future::pending().await
        }
        _ => next.run(request).await,
    }
}

/// Whether the switch was on. It is off now, and was so for one call only.
fn goes_off(directory: &Path, switch: &str) -> bool {
    std::fs::remove_file(directory.join(switch)).is_ok()
}

/// An answer that breaks off before it says anything: the stream is reset.
fn broken() -> Response {
    let lost = stream::iter([Err::<Vec<u8>, _>(io::Error::from(io::ErrorKind::ConnectionReset))]);
    Response::new(Body::from_stream(lost))
}

/// Puts the call's message into a file, which is there as a whole or not at all.
async fn leave(path: &Path, request: Request) -> Result<()> {
    let body = to_bytes(request.into_body(), CAUGHT_BYTES_MAX).await?;
    let unfinished = path.with_extension("part");
    std::fs::write(&unfinished, body.get(FRAME_HEADER_BYTES..).unwrap_or_default())?;
    Ok(std::fs::rename(&unfinished, path)?)
}
