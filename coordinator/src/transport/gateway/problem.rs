//! Errors, as `application/problem+json` (RFC 9457).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use concord_proto::status::reason;
use serde::Serialize;
use tonic::{Code, Status};

/// Why a request got no answer.
#[derive(Debug, Serialize)]
pub(in super::super) struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    #[serde(serialize_with = "number")]
    status: StatusCode,
    /// For people.
    detail: String,
    /// The reason that Concord gives (`google.rpc.ErrorInfo`), stable between versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The name of gRPC's status code.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or_default().to_owned();
        Problem { kind: "about:blank".into(), title, status, detail: detail.into(), reason: None, code: None }
    }

    /// What was sent is not what is taken.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        let problem = Problem::new(StatusCode::BAD_REQUEST, detail);
        Problem { code: Some(name(Code::InvalidArgument)), ..problem }
    }

    pub(super) fn internal(detail: impl Into<String>) -> Self {
        let problem = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail);
        Problem { code: Some(name(Code::Internal)), ..problem }
    }

    /// As a line of a stream that has begun: `{"error": …}`.
    pub(super) fn line(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Line<'p> {
            error: &'p Problem,
        }
        serde_json::to_vec(&Line { error: self }).unwrap_or_default()
    }
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        let problem = Problem::new(http_status(status.code()), status.message());
        let reason = reason(&status);
        let kind = reason.as_ref().map_or(problem.kind, |reason| format!("urn:concord:problem:{reason}"));
        Problem { kind, reason, code: Some(name(status.code())), ..problem }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

fn number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

/// As `google.rpc.Code` gives them, but for FAILED_PRECONDITION: to repeat such a call as it is is of no use, and the
/// request is not what is wrong.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Aborted | Code::AlreadyExists | Code::FailedPrecondition => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded | Code::Cancelled => StatusCode::GATEWAY_TIMEOUT,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
