//! The HTTP/JSON gateway: every unary and every server-streaming method of the gRPC API at `/v1/…`, in the JSON mapping of
//! Protocol Buffers; errors as `application/problem+json` (RFC 9457).
//!
//! A request becomes the message of a gRPC call, which is made in process: whatever holds for a gRPC caller (limits,
//! passing on to the transaction's owner, reasons of errors) holds here, because it is the same code.

mod call;
mod json;
mod message;
mod openapi;
mod problem;
mod routes;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use self::call::Rpc;
pub(super) use self::problem::Problem;
use self::routes::ROUTES;
use super::guard::Guard;
use axum::Router;
use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, MethodRouter, get, on};

/// Where the OpenAPI document is.
const OPENAPI: &str = "/v1/openapi.json";

/// The gateway's routes to the methods of `grpc`, before which `guard` does not stand yet. `body_bytes_max` is the longest body
/// of a request.
pub(super) fn router(grpc: Router, guard: &Arc<Guard>, body_bytes_max: usize) -> Router {
    let document: Arc<str> = openapi::document().to_string().into();
    let document = move || {
        let document = Arc::clone(&document);
        async move { ([(header::CONTENT_TYPE, "application/json")], document.to_string()) }
    };
    let mut router = Router::new().route(OPENAPI, get(document));
    for route in ROUTES {
        let rpc = Arc::new(Rpc::new(route, grpc.clone(), body_bytes_max));
        router = router.route(route.path, method(route.method.clone(), rpc, Arc::clone(guard)));
    }
    router.method_not_allowed_fallback(wrong_method)
}

/// Keeps out who asks for this machine by a name of their own: a page of another site whose name has come to mean 127.0.0.1
/// could read and order everything here (DNS rebinding). For a coordinator that only this machine can reach.
pub(super) async fn only_local_names(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or_default().to_owned());
    let host = host.or_else(|| request.uri().authority().map(ToString::to_string));
    match host {
        Some(host) if !is_local(&host) => {
            let problem =
                format!("this coordinator is called localhost, or by its IP address, and not {host}");
            Problem::new(StatusCode::FORBIDDEN, problem).into_response()
        }
        _ => next.run(request).await,
    }
}

/// Keeps pages out of what is for gRPC: a browser says which site an order comes from, and sends this content type to another
/// site only with that one's leave.
pub(super) async fn only_grpc(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if headers.contains_key(header::ORIGIN) || !headers.get(header::CONTENT_TYPE).is_some_and(is_grpc) {
        let problem = format!("this is for gRPC, and not for pages; {OPENAPI} lists what is for them");
        return Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem).into_response();
    }
    next.run(request).await
}

/// Without what DNS has a say in.
fn is_local(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// Answers what nobody else does.
pub(super) async fn unknown(request: Request) -> Response {
    let is_grpc = request.headers().get(header::CONTENT_TYPE).is_some_and(is_grpc);
    if is_grpc {
        let status = tonic::Status::unimplemented(format!("there is no method {}", request.uri().path()));
        return status.into_http::<axum::body::Body>();
    }
    let path = request.uri().path();
    Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {path}; {OPENAPI} lists the API"))
        .into_response()
}

pub(super) fn is_grpc(content_type: &HeaderValue) -> bool {
    content_type.as_bytes().starts_with(b"application/grpc")
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    let problem = format!("{} does not take {method}; {OPENAPI} lists the API", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, problem)
}

fn method(method: Method, rpc: Arc<Rpc>, guard: Arc<Guard>) -> MethodRouter {
    let filter = match method {
        Method::GET => MethodFilter::GET,
        _ => MethodFilter::POST,
    };
    on(filter, move |mut request: Request| {
        let (rpc, guard) = (Arc::clone(&rpc), Arc::clone(&guard));
        async move {
            // Before its body is read: that costs memory, which is for those who may call.
            if let Err(response) = guard.let_in(rpc.path(), &mut request) {
                return *response;
            }
            match rpc.answer(request).await {
                Ok(response) => no_store(response),
                Err(problem) => problem.into_response(),
            }
        }
    })
}

/// What is true now may not be in a moment.
fn no_store(mut response: Response) -> Response {
    const VALUE: (HeaderName, HeaderValue) = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(VALUE.0, VALUE.1);
    response
}
