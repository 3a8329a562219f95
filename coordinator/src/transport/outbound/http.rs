//! Participants that are called by POST: TCC branches of services that know nothing of gRPC (docs/http.md).
//!
//! `POST {address}/{action}/{try|confirm|cancel}` with the payload as it is. 200 and 204 are yes, 409 is no, 425 is "not yet";
//! whatever else comes back says nothing, and the call is repeated.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use axum::http::{Method, Request as HttpRequest, StatusCode, Uri};
use bytes::Bytes;
use concord_proto::trace::{TRACEPARENT, TRACESTATE};
use concord_proto::v1::BranchOutcome;
use concord_proto::v1::answer::Response;
use concord_proto::v1::call::Request;
use concord_proto::{TraceContext, v1};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tonic::Status;
use url::Url;

use super::super::call::NeverSent;
use super::REPLY_BYTES_MAX;
use crate::security::OutboundTls;

/// Longest reason that is kept, in bytes.
const REASON_BYTES_MAX: usize = 1024;

const GTID: HeaderName = HeaderName::from_static(concord_proto::GTID_METADATA);
const BRANCH_ID: HeaderName = HeaderName::from_static("concord-branch-id");
const CLUSTER_ID: HeaderName = HeaderName::from_static("concord-cluster-id");
/// Until the transaction times out; with `try` only.
const REMAINING_MS: HeaderName = HeaderName::from_static("concord-remaining-ms");

/// A client for all of them. It goes where it is told, and nowhere else: by no proxy and by no redirection.
pub(crate) type HttpClient = Client<HttpsConnector<HttpConnector>, Body>;

pub(crate) fn client(connect_timeout: Duration, tls: &OutboundTls) -> Result<HttpClient, String> {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(connect_timeout));
    connector.set_nodelay(true);
    // Or it refuses `https`, which is the next one's business.
    connector.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls.client_config()?)
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

/// Posts a JSON document to somebody who takes it or does not.
///
/// # Errors
/// Why it may not have been taken.
pub(crate) async fn post_json(client: &HttpClient, url: &str, document: Vec<u8>) -> Result<(), String> {
    let request = HttpRequest::post(url).header(CONTENT_TYPE, "application/json").body(document.into());
    let answer = client.request(request.map_err(|error| error.to_string())?).await;
    let status = answer.map_err(|error| explain(&error))?.status();
    match status.is_success() {
        true => Ok(()),
        false => Err(format!("HTTP {status}")),
    }
}

/// One of them.
pub(super) struct HttpService {
    pub(super) client: HttpClient,
    pub(super) address: Url,
}

/// What it has answered.
enum Said {
    Yes(Bytes),
    No(String),
}

impl HttpService {
    pub(super) async fn call(
        &self,
        request: Request,
        trace: Option<&TraceContext>,
    ) -> Result<Response, Status> {
        let refused = BranchOutcome::Refused.into();
        Ok(match request {
            Request::Try(v1::TryRequest { branch, work, remaining_ms }) => {
                Response::Try(match self.post("try", (branch, work), Some(remaining_ms), trace).await? {
                    Said::Yes(reply) => v1::TryResponse { reserved: true, reply, ..Default::default() },
                    Said::No(reason) => v1::TryResponse { reserved: false, reason, ..Default::default() },
                })
            }
            Request::Confirm(v1::ConfirmRequest { branch, work }) => {
                let committed = BranchOutcome::Committed.into();
                Response::Confirm(match self.post("confirm", (branch, work), None, trace).await? {
                    Said::Yes(reply) => {
                        v1::ConfirmResponse { outcome: committed, reply, ..Default::default() }
                    }
                    Said::No(reason) => {
                        v1::ConfirmResponse { outcome: refused, reason, ..Default::default() }
                    }
                })
            }
            Request::Cancel(v1::CancelRequest { branch, work }) => {
                let rolled_back = BranchOutcome::RolledBack.into();
                Response::Cancel(match self.post("cancel", (branch, work), None, trace).await? {
                    Said::Yes(_) => v1::CancelResponse { outcome: rolled_back, ..Default::default() },
                    Said::No(reason) => v1::CancelResponse { outcome: refused, reason },
                })
            }
            _ => {
                return Err(Status::unimplemented(
                    "a participant that is called by POST takes TCC branches only",
                ));
            }
        })
    }

    async fn post(
        &self,
        verb: &str,
        (branch, work): (Option<v1::BranchContext>, Option<v1::Work>),
        remaining_ms: Option<u32>,
        trace: Option<&TraceContext>,
    ) -> Result<Said, Status> {
        let v1::BranchContext { gtid, branch_id, cluster_id } = branch.unwrap_or_default();
        let v1::Work { action, payload } = work.unwrap_or_default();
        let mut request = HttpRequest::new(Body::empty());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.place(&action, verb)?;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("concord/", env!("CARGO_PKG_VERSION"))));
        headers.insert(GTID, value(&gtid)?);
        headers.insert(BRANCH_ID, branch_id.into());
        headers.insert(CLUSTER_ID, value(&format!("{cluster_id:016x}"))?);
        if let Some(remaining_ms) = remaining_ms {
            headers.insert(REMAINING_MS, remaining_ms.into());
        }
        if let Some(trace) = trace {
            headers.insert(TRACEPARENT, value(&trace.traceparent())?);
            if !trace.tracestate().is_empty() {
                headers.insert(TRACESTATE, value(trace.tracestate())?);
            }
        }
        if let Some(content_type) = content_type(&payload) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        *request.body_mut() = payload.into();
        let answer = self.client.request(request).await.map_err(|error| unanswered(&error))?;
        let status = answer.status();
        let body = to_bytes(Body::new(answer.into_body()), REPLY_BYTES_MAX).await;
        let body =
            body.map_err(|error| Status::out_of_range(format!("its reply is cut off or too long: {error}")));
        match status {
            // What was read in vain was said all the same; but it is not known whole.
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(Said::Yes(body?)),
            StatusCode::CONFLICT => Ok(Said::No(reason(&body.unwrap_or_default(), status))),
            StatusCode::TOO_EARLY => Err(Status::unavailable("not yet (HTTP 425)")),
            _ => Err(Status::unknown(reason(&body.unwrap_or_default(), status))),
        }
    }

    /// Whatever is in the name of the action, it is one part of the path.
    fn place(&self, action: &str, verb: &str) -> Result<Uri, Status> {
        let mut place = self.address.clone();
        // `push` drops these: they would lead elsewhere.
        if matches!(action, "" | "." | "..") {
            return Err(Status::invalid_argument(format!(
                "{action:?} is no action of a service that is called by POST"
            )));
        }
        match place.path_segments_mut() {
            Ok(mut path) => path.push(action).push(verb),
            Err(()) => return Err(Status::invalid_argument("its address has no path")),
        };
        place.as_str().parse().map_err(|_| Status::invalid_argument(format!("{place} is no address")))
    }
}

fn value(text: &str) -> Result<HeaderValue, Status> {
    text.parse().map_err(|_| Status::internal("it cannot stand in a header"))
}

fn content_type(payload: &Bytes) -> Option<&'static str> {
    match serde_json::from_slice::<IgnoredAny>(payload) {
        _ if payload.is_empty() => None,
        Ok(_) => Some("application/json"),
        Err(_) => Some("application/octet-stream"),
    }
}

/// Why there is no answer: with a cause, as from gRPC's transport.
fn unanswered(error: &Error) -> Status {
    let why = explain(error);
    if error.is_connect() {
        return NeverSent::status(&why);
    }
    let mut status = Status::unavailable(why.clone());
    status.set_source(Arc::new(std::io::Error::other(why)));
    status
}

/// With its causes.
fn explain(error: &Error) -> String {
    let mut why = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        why = format!("{why}: {deeper}");
        cause = deeper.source();
    }
    why
}

/// What it says of itself: a problem (RFC 9457), another object with a reason, or text.
fn reason(body: &[u8], status: StatusCode) -> String {
    #[derive(Deserialize)]
    struct Told {
        #[serde(alias = "detail", alias = "message", alias = "error")]
        reason: String,
    }
    let text = match serde_json::from_slice::<Told>(body) {
        Ok(Told { reason }) => reason,
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    match text.as_str() {
        "" => format!("HTTP {status}"),
        text if status == StatusCode::CONFLICT => cut(text).to_owned(),
        text => format!("HTTP {status}: {}", cut(text)),
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(REASON_BYTES_MAX)]
}

#[cfg(test)]
mod tests;
