//! The HTTP door: JSON in, JSON out, whatever the content type says.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

use super::desk::{Desk, Placed, Refusal, Wish};

/// An order is far smaller.
const BODY_BYTES_MAX: usize = 4 * 1024;
/// When a customer is to ask again.
const RETRY_AFTER_S: &str = "1";

/// What can be asked for.
pub(crate) fn routes(desk: Desk) -> Router {
    Router::new()
        .route("/orders", post(place))
        .route("/orders/{id}", get(show))
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(desk)
}

/// For every other path.
pub(crate) async fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, "there is POST /orders and GET /orders/{id}, and nothing else")
}

async fn not_allowed() -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, "there is POST /orders and GET /orders/{id}, and nothing else")
}

async fn place(
    State(desk): State<Desk>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return Ok(error(rejection.status(), &rejection.body_text())),
    };
    let mut wish: Wish =
        serde_json::from_slice(&body).map_err(|error| Refusal::Invalid(error.to_string()))?;
    if let Some(key) = headers.get("idempotency-key") {
        let key = key.to_str().map_err(|error| Refusal::Invalid(format!("Idempotency-Key: {error}")))?;
        if wish.request_id.as_deref().is_some_and(|id| id != key) {
            return Err(Refusal::Invalid("Idempotency-Key and request_id differ".into()));
        }
        wish.request_id = Some(key.to_owned());
    }
    let Placed { order, delivering } = desk.place(wish).await?;
    let status = if delivering { StatusCode::ACCEPTED } else { StatusCode::CREATED };
    Ok((status, [(header::LOCATION, format!("/orders/{}", order.id))], Json(order)).into_response())
}

async fn show(
    State(desk): State<Desk>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path(id) = id.map_err(|rejection| Refusal::Invalid(rejection.body_text()))?;
    Ok(Json(desk.order(&id).await?).into_response())
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Refusal::Invalid(reason) => error(StatusCode::BAD_REQUEST, &reason),
            Refusal::Unknown(reason) => error(StatusCode::NOT_FOUND, &reason),
            Refusal::Refused { reason, id } => {
                (StatusCode::CONFLICT, Json(json!({ "error": reason, "id": id }))).into_response()
            }
            Refusal::OtherContent(reason) => error(StatusCode::UNPROCESSABLE_ENTITY, &reason),
            Refusal::Unavailable { reason, request_id } => {
                let body = match request_id {
                    Some(id) => Json(json!({ "error": reason, "request_id": id })),
                    None => Json(json!({ "error": reason })),
                };
                (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, RETRY_AFTER_S)], body)
                    .into_response()
            }
            Refusal::Broken(reason) => {
                tracing::error!(reason, "an order could not be placed");
                error(StatusCode::INTERNAL_SERVER_ERROR, &reason)
            }
        }
    }
}

fn error(status: StatusCode, reason: &str) -> Response {
    (status, Json(json!({ "error": reason }))).into_response()
}
