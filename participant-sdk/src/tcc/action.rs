//! The handlers of an action, and what they came to.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::Bytes;
use concord_proto::TraceContext;
use concord_xa::REPLY_MAX_BYTES;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::branch::TccBranch;
use super::locks::Key;
use crate::handler::{FromPayload, HandlerError, Reply};
use crate::local::{LocalDatabase, LocalTransaction as _};

type Run<D> = dyn Fn(TccBranch<D>, Bytes) -> BoxFuture<'static, Result<Reply, HandlerError>> + Send + Sync;

/// A handler of a TCC action: an async function of the branch and the payload, which is read as the handler wants
/// it: [`Bytes`], [`crate::Json`] or [`crate::Proto`].
pub trait TccHandler<D: LocalDatabase, P>: Send + Sync + 'static {
    /// Runs it.
    fn call(&self, branch: TccBranch<D>, payload: Bytes) -> BoxFuture<'static, Result<Reply, HandlerError>>;
}

impl<D, P, R, F, Fut> TccHandler<D, P> for F
where
    D: LocalDatabase,
    P: FromPayload,
    R: Into<Reply>,
    F: Fn(TccBranch<D>, P) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
{
    fn call(&self, branch: TccBranch<D>, payload: Bytes) -> BoxFuture<'static, Result<Reply, HandlerError>> {
        match P::from_payload(payload) {
            Ok(payload) => {
                let work = self(branch, payload);
                async move { work.await.map(Into::into) }.boxed()
            }
            Err(error) => std::future::ready(Err(error)).boxed(),
        }
    }
}

/// One handler, whatever its types.
pub(crate) struct Handler<D: LocalDatabase>(Box<Run<D>>);

impl<D: LocalDatabase> Handler<D> {
    pub(crate) fn new<P>(handler: impl TccHandler<D, P>) -> Self {
        Handler(Box::new(move |branch, payload| handler.call(branch, payload)))
    }
}

/// The three handlers of one action.
pub(crate) struct Handlers<D: LocalDatabase> {
    pub(crate) attempt: Handler<D>,
    pub(crate) confirm: Handler<D>,
    pub(crate) cancel: Handler<D>,
}

impl<D: LocalDatabase> Handlers<D> {
    pub(crate) fn new<P, Q, S>(
        attempt: impl TccHandler<D, P>,
        confirm: impl TccHandler<D, Q>,
        cancel: impl TccHandler<D, S>,
    ) -> Self {
        Handlers {
            attempt: Handler::new(attempt),
            confirm: Handler::new(confirm),
            cancel: Handler::new(cancel),
        }
    }
}

/// What running a handler came to. Only [`Ran::Done`] leaves a transaction open; in every other case what the
/// handler did is rolled back, or will be when the database notices that the connection is closed.
pub(crate) enum Ran<D: LocalDatabase> {
    Done(D::Transaction, Bytes),
    /// The business says no; or the handler's reply is too large, and always will be.
    Refused(String),
    Panicked(String),
    /// It may go well another time.
    Failed(String),
}

/// What a handler is called in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Try,
    Confirm,
    Cancel,
}

/// Runs a handler in a transaction, until `deadline` at most.
pub(crate) async fn run<D: LocalDatabase>(
    handler: &Handler<D>,
    transaction: D::Transaction,
    (key, phase): (Key, Phase),
    (payload, trace): (Bytes, Option<TraceContext>),
    deadline: Instant,
) -> Ran<D> {
    let until = (phase == Phase::Try).then(|| deadline.into_std());
    let (branch, tray) = TccBranch::new(transaction, key.gtid, key.branch, until, trace);
    // The handler is called inside the future: a panic before its first await is caught as well.
    let work = AssertUnwindSafe(async { (handler.0)(branch, payload).await }).catch_unwind();
    let outcome = tokio::time::timeout_at(deadline, work).await;
    let Some(transaction) = tray.take() else {
        return Ran::Failed("the handler kept its branch".into());
    };
    match outcome {
        // In these two the transaction is dropped and its connection closed: a statement may have been cut short.
        Err(_) => Ran::Failed("the time was up while the handler was at work".into()),
        Ok(Err(panic)) => Ran::Panicked(format!("the handler panicked: {}", words_of(&*panic))),
        // Cancel's is not kept.
        Ok(Ok(Ok(Reply(reply)))) if reply.len() > REPLY_MAX_BYTES && phase != Phase::Cancel => {
            roll_back::<D>(transaction).await;
            Ran::Refused(format!("the reply has {} bytes; at most {REPLY_MAX_BYTES} are kept", reply.len()))
        }
        Ok(Ok(Ok(Reply(reply)))) => Ran::Done(transaction, reply),
        Ok(Ok(Err(error))) => {
            roll_back::<D>(transaction).await;
            let reason = error.reason();
            if error.is_refusal() { Ran::Refused(reason) } else { Ran::Failed(reason) }
        }
    }
}

/// The time that the database has for a statement of the barrier itself.
pub(crate) const CONTROL_TIME: Duration = Duration::from_secs(10);

/// Rolls back, or else closes the connection, which comes to the same.
pub(crate) async fn roll_back<D: LocalDatabase>(transaction: D::Transaction) {
    if let Ok(Err(error)) = tokio::time::timeout(CONTROL_TIME, transaction.rollback()).await {
        tracing::debug!(%error, "could not roll back; the connection was closed");
    }
}

pub(crate) fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
