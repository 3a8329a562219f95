//! What machines look at: `/metrics`, and whether this process lives (`/livez`) and takes transactions (`/readyz`).

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;

use super::guard::Guard;
use crate::engine::Engine;

/// A page that is made when somebody asks for it.
#[derive(Clone)]
pub(crate) struct Page {
    pub(crate) content_type: &'static str,
    pub(crate) content: Arc<dyn Fn() -> String + Send + Sync>,
}

pub(super) fn router(engine: Arc<Engine>, metrics: Page, guard: &Arc<Guard>) -> Router {
    let ready = move || {
        let engine = Arc::clone(&engine);
        async move {
            match engine.is_ready() {
                true => (StatusCode::OK, "ready\n"),
                false => (StatusCode::SERVICE_UNAVAILABLE, "it begins no transactions\n"),
            }
        }
    };
    let metrics = move || {
        let Page { content_type, content } = metrics.clone();
        async move { ([(header::CONTENT_TYPE, content_type)], content()) }
    };
    guard
        .before(Router::new().route("/metrics", get(metrics)))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
}
