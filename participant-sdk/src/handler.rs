//! What a service author writes: handlers, their arguments and their answers.

use std::error::Error as StdError;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use concord_xa::XaError;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::reservations::ReservationError;
use crate::xa_branch::XaBranch;

/// What a handler answers. The initiator gets it from `Execute`. At most 64 KiB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply(pub Bytes);

impl Reply {
    /// Answers with nothing.
    pub const fn empty() -> Self {
        Reply(Bytes::new())
    }

    /// Answers with a value as JSON.
    ///
    /// # Errors
    /// When the value cannot be written as JSON; the branch then votes no.
    pub fn json(value: &impl serde::Serialize) -> Result<Self, HandlerError> {
        Ok(Reply(serde_json::to_vec(value)?.into()))
    }

    /// Answers with a protobuf message.
    pub fn proto(message: &impl prost::Message) -> Self {
        Reply(message.encode_to_vec().into())
    }
}

impl From<()> for Reply {
    fn from((): ()) -> Self {
        Reply::empty()
    }
}

impl From<Bytes> for Reply {
    fn from(bytes: Bytes) -> Self {
        Reply(bytes)
    }
}

impl From<Vec<u8>> for Reply {
    fn from(bytes: Vec<u8>) -> Self {
        Reply(bytes.into())
    }
}

impl From<String> for Reply {
    fn from(text: String) -> Self {
        Reply(text.into())
    }
}

/// Why a handler did not do its work. Either way the branch votes no and everything it did is rolled back.
///
/// Any error converts into a failure with `?`; a refusal is said with [`HandlerError::refused`].
#[derive(Debug)]
pub struct HandlerError(Kind);

#[derive(Debug)]
enum Kind {
    Refused(String),
    Failed(Box<dyn StdError + Send + Sync>),
}

impl HandlerError {
    /// The business says no: not enough money, no such account. Not logged as an error.
    pub fn refused(reason: impl Into<String>) -> Self {
        HandlerError(Kind::Refused(reason.into()))
    }

    /// Something went wrong.
    pub fn failed(reason: impl Into<String>) -> Self {
        HandlerError(Kind::Failed(reason.into().into()))
    }

    /// Whether it is a refusal rather than a failure. A statement that matched another number of rows than
    /// asked for is one, and so is what [`ReservationError::is_refusal`] says is one.
    pub fn is_refusal(&self) -> bool {
        match &self.0 {
            Kind::Refused(_) => true,
            Kind::Failed(error) => match error.downcast_ref() {
                Some(XaError::RowCount { .. } | XaError::Refused(_) | XaError::SessionsExhausted { .. }) => {
                    true
                }
                _ => error.downcast_ref().is_some_and(ReservationError::is_refusal),
            },
        }
    }

    /// In words, with the causes.
    pub fn reason(&self) -> String {
        match &self.0 {
            Kind::Refused(reason) => reason.clone(),
            Kind::Failed(error) => {
                let mut text = error.to_string();
                let mut cause = error.source();
                while let Some(error) = cause {
                    text.push_str(": ");
                    text.push_str(&error.to_string());
                    cause = error.source();
                }
                text
            }
        }
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        HandlerError(Kind::Failed(Box::new(error)))
    }
}

/// What a handler can take as its argument: the payload as it is ([`Bytes`]), or read as [`Json`] or
/// [`Proto`].
pub trait FromPayload: Sized + Send {
    /// Reads the payload.
    ///
    /// # Errors
    /// When it is not what the handler wants; the branch then votes no.
    fn from_payload(payload: Bytes) -> Result<Self, HandlerError>;
}

impl FromPayload for Bytes {
    fn from_payload(payload: Bytes) -> Result<Self, HandlerError> {
        Ok(payload)
    }
}

/// A payload in JSON.
#[derive(Debug, Clone, Copy)]
pub struct Json<T>(pub T);

impl<T: serde::de::DeserializeOwned + Send> FromPayload for Json<T> {
    fn from_payload(payload: Bytes) -> Result<Self, HandlerError> {
        match serde_json::from_slice(&payload) {
            Ok(value) => Ok(Json(value)),
            Err(error) => Err(HandlerError::refused(format!("the payload is not as expected: {error}"))),
        }
    }
}

/// A payload that is a protobuf message.
#[derive(Debug, Clone, Copy)]
pub struct Proto<T>(pub T);

impl<T: prost::Message + Default> FromPayload for Proto<T> {
    fn from_payload(payload: Bytes) -> Result<Self, HandlerError> {
        match T::decode(payload) {
            Ok(message) => Ok(Proto(message)),
            Err(error) => Err(HandlerError::refused(format!("the payload is not as expected: {error}"))),
        }
    }
}

type Run = dyn Fn(XaBranch, Bytes) -> BoxFuture<'static, Result<Reply, HandlerError>> + Send + Sync;

/// A registered handler.
pub(crate) struct Action {
    pub(crate) run: Box<Run>,
    /// The server is to refuse writes.
    pub(crate) read_only: bool,
    /// The last branch only read, so it is worth finding out whether the next one wrote anything.
    pub(crate) seems_read_only: AtomicBool,
}

impl Action {
    pub(crate) fn new<P, R, F, Fut>(handler: F, read_only: bool) -> Arc<Self>
    where
        P: FromPayload + 'static,
        R: Into<Reply>,
        F: Fn(XaBranch, P) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let run = move |branch: XaBranch, payload: Bytes| {
            let handler = Arc::clone(&handler);
            async move {
                let work = handler(branch, P::from_payload(payload)?);
                work.await.map(Into::into)
            }
            .boxed()
        };
        Arc::new(Action { run: Box::new(run), read_only, seems_read_only: AtomicBool::new(true) })
    }
}
