//! Lets in who may call: every path but those of health, reflection, console and API description asks for a token, where
//! tokens are configured.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use concord_proto::status::with_reason;
use concord_protocol::Gtid;
use tonic::{Code, Extensions, Status};

use super::convert::{status, text};
use super::coordinator::bytes_max;
use super::gateway::{Problem, is_grpc};
use crate::engine::{Engine, EngineError};
use crate::metrics::{DoorMetrics, Metrics, Turned};
use crate::security::{Access, Callers, Identity, Jwt, Refusal, Tokens, access};

/// Those who may call, and what happened at the door.
pub(crate) struct Guard {
    /// `None`: whoever calls may do everything.
    callers: Option<ArcSwap<Callers>>,
    metrics: Arc<DoorMetrics>,
}

impl Guard {
    pub(crate) fn new(callers: Option<Callers>, metrics: &Metrics) -> Arc<Self> {
        let callers = callers.map(ArcSwap::from_pointee);
        Arc::new(Guard { callers, metrics: Arc::clone(&metrics.door) })
    }

    /// Whose tokens there are; `None`: there is no file of them.
    pub(crate) fn tokens(&self) -> Option<Arc<Tokens>> {
        self.callers.as_ref().and_then(|callers| callers.load().tokens.clone())
    }

    /// Those may call from now on who are in these files; `None`: in that of before. Streams that are open stay so.
    pub(crate) fn replace(&self, tokens: Option<Option<Arc<Tokens>>>, jwt: Option<Option<Arc<Jwt>>>) {
        let Some(current) = &self.callers else { return };
        let before = current.load();
        let tokens = tokens.unwrap_or_else(|| before.tokens.clone());
        let jwt = jwt.unwrap_or_else(|| before.jwt.clone());
        if let Some(callers) = Callers::new(tokens, jwt) {
            current.store(Arc::new(callers));
        }
    }

    /// Stands before every route of `router`.
    pub(super) fn before(self: &Arc<Self>, router: Router) -> Router {
        match self.callers {
            None => router,
            Some(_) => router.layer(from_fn_with_state(Arc::clone(self), let_in)),
        }
    }

    /// Lets in a request for what is at `path`, and leaves with it who makes it, for [`caller`].
    ///
    /// # Errors
    /// What to answer instead.
    pub(super) fn let_in(&self, path: &str, request: &mut Request) -> Result<(), Box<Response>> {
        match self.check(path, request.headers()) {
            Ok(Some(identity)) => {
                request.extensions_mut().insert(identity);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(refusal) => {
                let reason = match &refusal {
                    Refusal::NoToken => Turned::NoToken,
                    Refusal::BadToken(_) => Turned::BadToken,
                    Refusal::Role(_) => Turned::Role,
                };
                self.metrics.turned_away.at(reason).inc();
                tracing::debug!(path, %refusal, "a call was turned away");
                Err(Box::new(turn_away(request, &refusal)))
            }
        }
    }

    /// Who asks for what is at `path`. `None`: anybody may.
    fn check(&self, path: &str, headers: &HeaderMap) -> Result<Option<Arc<Identity>>, Refusal> {
        let (Some(callers), Access::To(roles)) = (&self.callers, access(path)) else { return Ok(None) };
        let authorization = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let identity = callers.load().identify(authorization)?;
        identity.check(roles, path)?;
        Ok(Some(identity))
    }
}

/// Who has made a call; `None` where nobody is asked.
pub(super) fn caller(extensions: &Extensions) -> Option<&Identity> {
    extensions.get::<Arc<Identity>>().map(|identity| &**identity)
}

/// Whether a caller may speak for the participant at this address, or have it called.
///
/// # Errors
/// PERMISSION_DENIED / OTHER_PARTICIPANT.
pub(super) fn check_name(caller: Option<&Identity>, address: &str) -> Result<(), Status> {
    match caller {
        Some(caller) if !caller.may_name(address) => {
            let message = format!("the token of {:?} is not for the participant {address}", caller.name);
            Err(with_reason(Code::PermissionDenied, "OTHER_PARTICIPANT", message))
        }
        _ => Ok(()),
    }
}

/// Whose transactions a caller begins, and the only ones that it sees; empty: all.
pub(super) fn tenant(extensions: &Extensions) -> String {
    caller(extensions).and_then(Identity::tenant).unwrap_or_default().to_owned()
}

/// Who gives an order, for the record: whose token it is, and by what other name they go. Empty: nobody says so.
///
/// # Errors
/// INVALID_ARGUMENT when the name is too long, or holds what does not belong into one.
pub(super) fn operator<T>(request: &tonic::Request<T>, operator: &str) -> Result<String, Status> {
    let operator = text("operator", operator.to_owned(), bytes_max::OPERATOR)?;
    Ok(match caller(request.extensions()) {
        None => operator,
        Some(Identity { name, .. }) if operator.is_empty() || operator == *name => name.clone(),
        Some(Identity { name, .. }) => format!("{operator} ({name})"),
    })
}

/// Keeps a tenant's caller away from what is not its own. Of what is not on record everybody may hear that it is not.
///
/// # Errors
/// As if there were no such transaction.
pub(super) async fn check_tenant(engine: &Engine, extensions: &Extensions, gtid: Gtid) -> Result<(), Status> {
    let Some(own) = caller(extensions).and_then(Identity::tenant) else { return Ok(()) };
    match engine.tenant_of(gtid).await.map_err(status)? {
        Some(tenant) if tenant != own => Err(status(EngineError::UnknownGtid(gtid))),
        _ => Ok(()),
    }
}

async fn let_in(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    match guard.let_in(&path, &mut request) {
        Ok(()) => next.run(request).await,
        Err(response) => *response,
    }
}

fn turn_away(request: &Request, refusal: &Refusal) -> Response {
    let (code, reason) = match refusal {
        Refusal::NoToken => (Code::Unauthenticated, "NO_TOKEN"),
        Refusal::BadToken(_) => (Code::Unauthenticated, "BAD_TOKEN"),
        Refusal::Role(_) => (Code::PermissionDenied, "ROLE_MISSING"),
    };
    let status: Status = with_reason(code, reason, refusal.to_string());
    if request.headers().get(header::CONTENT_TYPE).is_some_and(is_grpc) {
        return status.into_http::<axum::body::Body>();
    }
    let mut response = Problem::from(status).into_response();
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
