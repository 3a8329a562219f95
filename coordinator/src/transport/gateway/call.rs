//! From an HTTP request to a gRPC call, and back.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{RawPathParams, Request};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{RequestExt as _, Router};
use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use prost_reflect::{MessageDescriptor, MethodDescriptor};
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;

use super::problem::Problem;
use super::routes::Route;
use super::{json, message};
use crate::security::Identity;

/// Headers that go with the call as its metadata.
const PASSED: [&str; 4] = ["authorization", "grpc-timeout", "traceparent", "tracestate"];

/// How long more is taken, for nothing, from somebody who has sent too much: else the connection or the stream is reset at once,
/// and many a client does not look at the answer then.
const LAST_PARTS: Duration = Duration::from_secs(10);

/// How long a body may take to come.
const BODY_TIME: Duration = Duration::from_secs(60);

/// One method of the gRPC API, which nobody keeps anybody away from here.
pub(super) struct Rpc {
    descriptor: MethodDescriptor,
    path: PathAndQuery,
    grpc: Router,
    body_bytes_max: usize,
}

impl Rpc {
    pub(super) fn new(route: &Route, grpc: Router, body_bytes_max: usize) -> Self {
        let path = format!("/concord.v1.{}/{}", route.service, route.rpc);
        #[expect(clippy::expect_used, reason = "the table of routes is checked by a test")]
        let path = path.try_into().expect("a path of gRPC");
        Rpc { descriptor: message::rpc(route.service, route.rpc), path, grpc, body_bytes_max }
    }

    /// The path of the gRPC method.
    pub(super) fn path(&self) -> &str {
        self.path.path()
    }

    /// Makes the call that a request asks for.
    pub(super) async fn answer(&self, mut request: Request) -> Result<Response, Problem> {
        if *request.method() != Method::GET && is_from_another_site(&request) {
            let problem = "a page of another site may not give orders to this coordinator";
            return Err(Problem::new(StatusCode::FORBIDDEN, problem));
        }
        let (metadata, caller) =
            (metadata(request.headers()), request.extensions().get::<Arc<Identity>>().cloned());
        let encoded = message::encode(self.descriptor.input(), self.members(&mut request).await?)?;
        let mut call = tonic::Request::new(encoded);
        *call.metadata_mut() = metadata;
        caller.map(|caller| call.extensions_mut().insert(caller));
        let mut grpc = Grpc::new(self.grpc.clone()).max_decoding_message_size(usize::MAX);
        let (path, output) = (self.path.clone(), self.descriptor.output());
        if self.descriptor.is_server_streaming() {
            let answers = grpc.server_streaming(call, path, Unread).await?.into_inner();
            let body = Body::from_stream(lines(answers, output));
            return Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response());
        }
        let answer = grpc.unary(call, path, Unread).await?.into_inner();
        let json = message::decode(output, answer)?;
        Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
    }

    /// The request's members, from its body, its query and its path.
    async fn members(&self, request: &mut Request) -> Result<Map<String, Value>, Problem> {
        let input = self.descriptor.input();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let in_path = request.extract_parts::<RawPathParams>().await;
        let in_path = in_path.map_err(|error| Problem::bad_request(error.body_text()))?;
        let mut members = match *request.method() {
            Method::POST => self.body(std::mem::take(request)).await?,
            _ => Map::new(),
        };
        for (name, text) in &in_path {
            let field = message::field(&input, name);
            let [own, json] = [name, field.as_ref().map_or(name, |field| field.json_name())];
            if members.contains_key(own) || members.contains_key(json) {
                return Err(Problem::bad_request(format!("{name} is in the path, and in the body too")));
            }
            message::add_text(&mut members, &input, name, text)?;
        }
        for (name, text) in url::form_urlencoded::parse(query.as_bytes()) {
            message::add_text(&mut members, &input, &name, &text)?;
        }
        Ok(members)
    }

    /// The object in the body; an empty body is one without members.
    async fn body(&self, request: Request) -> Result<Map<String, Value>, Problem> {
        let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
        let announced = request.body().size_hint().lower();
        let mut parts = request.into_body().into_data_stream();
        let (mut body, until) = (BytesMut::new(), Instant::now() + BODY_TIME);
        let is_over = |bytes| bytes > self.body_bytes_max as u64;
        while !is_over(announced)
            && let Some(part) = timeout_at(until, parts.next()).await.map_err(|_| {
                let problem = format!("the body has not come within {BODY_TIME:?}");
                Problem::new(StatusCode::REQUEST_TIMEOUT, problem)
            })?
        {
            let part =
                part.map_err(|error| Problem::bad_request(format!("the body cannot be read: {error}")))?;
            body.extend_from_slice(&part);
            if is_over(body.len() as u64) {
                break;
            }
        }
        if is_over(announced.max(body.len() as u64)) {
            tokio::spawn(tokio::time::timeout(LAST_PARTS, parts.for_each(async |_| {})));
            let problem = format!("the body is over {} bytes", self.body_bytes_max);
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, problem));
        }
        if body.is_empty() {
            return Ok(Map::new());
        }
        if !content_type.as_ref().is_some_and(is_json) {
            let problem = "the content type of a body must be application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem));
        }
        json::object(&body).map_err(|error| Problem::bad_request(format!("the body: {error}")))
    }
}

/// A browser says so: a page that somebody looks at would do it in their name.
fn is_from_another_site(request: &Request) -> bool {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return false };
    // With HTTP/2 it stands in the place of the header.
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let host = request.headers().get(header::HOST).map(HeaderValue::as_bytes);
    let own = host.or(authority).unwrap_or_default();
    let site =
        origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, site)| site.as_bytes());
    site != Some(own)
}

fn is_json(content_type: &HeaderValue) -> bool {
    let essence = content_type.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

fn metadata(headers: &HeaderMap) -> MetadataMap {
    let mut passed = HeaderMap::new();
    for name in PASSED {
        // There may be several of a name.
        for value in headers.get_all(name) {
            passed.append(HeaderName::from_static(name), value.clone());
        }
    }
    MetadataMap::from_headers(passed)
}

/// Each message as a line. An error is the last line: the status has been sent long ago.
fn lines(
    answers: tonic::Streaming<Bytes>,
    output: MessageDescriptor,
) -> impl Stream<Item = Result<Vec<u8>, std::convert::Infallible>> {
    stream::unfold(Some(answers), move |answers| {
        let output = output.clone();
        async move {
            let mut answers = answers?;
            let decode = |answer| message::decode(output, answer);
            let (mut line, rest) = match answers.next().await?.map_err(Problem::from).and_then(decode) {
                Ok(json) => (json, Some(answers)),
                Err(problem) => (problem.line(), None),
            };
            line.push(b'\n');
            Some((Ok(line), rest))
        }
    })
}

/// Messages as they are on the wire.
#[derive(Debug, Clone, Copy)]
struct Unread;

impl Codec for Unread {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Unread
    }

    fn decoder(&mut self) -> Self {
        Unread
    }
}

impl Encoder for Unread {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Unread {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
