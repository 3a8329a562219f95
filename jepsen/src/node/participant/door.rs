//! The participant's door: calls that are done twice, and answers that are lost.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Result;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use bytes::Bytes;
use concord_participant::ParticipantServer;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::Server;

/// The harness's payloads are far smaller.
const CALL_BYTES_MAX: usize = 1 << 20;
/// How late the second copy of a call comes, at the most.
const LATE_MAX: Duration = Duration::from_secs(3);

/// What the door does wrong, with which chance, from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct DoorFaults {
    /// A call is done, and its answer is lost.
    pub drop_reply: f64,
    /// A call is done again, at the same time or up to three seconds later.
    pub duplicate: f64,
    /// A call is done seconds later, when its caller has long been told that it failed.
    pub late: f64,
}

/// What the door does wrong now.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults(Arc<RwLock<DoorFaults>>);

impl Faults {
    pub(super) fn set(&self, faults: DoorFaults) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    fn get(&self) -> DoorFaults {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves the participant until the process ends. One that also attaches is called through this door only while its
/// stream is broken.
pub(super) async fn serve(
    participant: ParticipantServer,
    listen: SocketAddr,
    attached: bool,
    faults: Faults,
) -> Result<()> {
    let routes = Routes::new(participant.service()).into_axum_router();
    let routes = routes.layer(from_fn_with_state(faults, pass));
    let server = Server::builder().tcp_nodelay(true).add_routes(routes.into()).serve(listen);
    let attach = async {
        if attached {
            participant.attach_until(std::future::pending()).await;
        }
        Ok(())
    };
    tokio::try_join!(server, attach)?;
    Ok(())
}

async fn pass(State(faults): State<Faults>, request: Request, next: Next) -> Response {
    let faults = faults.get();
    if faults == DoorFaults::default() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, CALL_BYTES_MAX).await else {
        return Status::invalid_argument("the call broke off").into_http();
    };
    // Drawn before the first await, each whether or not it matters.
    let [drop_reply, duplicate, late] = [faults.drop_reply, faults.duplicate, faults.late].map(chance);
    if duplicate || late {
        let again = next.clone().run(copy(&parts, &body));
        let by = LATE_MAX.mul_f64(rand::rng().random_range(0.0..=1.0));
        tokio::spawn(async move {
            tokio::time::sleep(by).await;
            again.await;
        });
    }
    if late {
        return Status::unavailable("a fault of the harness's: done later").into_http();
    }
    let response = next.run(copy(&parts, &body)).await;
    if drop_reply {
        return Status::unavailable("a fault of the harness's: done, the answer is lost").into_http();
    }
    response
}

fn chance(of: f64) -> bool {
    rand::rng().random_range(0.0..1.0) < of
}

fn copy(parts: &Parts, body: &Bytes) -> Request {
    Request::from_parts(parts.clone(), Body::from(body.clone()))
}
