//! Try, Confirm and Cancel, ready to be registered.

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::Reservations;
use crate::handler::{HandlerError, Json};
use crate::local::LocalDatabase;
use crate::tcc::TccBranch;

/// The payload of the ready-made handlers, in JSON: `{"items": [{"sku": "T00101", "quantity": 2}]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReserveItems {
    /// What to reserve.
    pub items: Vec<ReserveItem>,
}

/// One item of [`ReserveItems`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReserveItem {
    /// Which SKU, or which account.
    pub sku: String,
    /// How much of it.
    pub quantity: i64,
}

type Work = BoxFuture<'static, Result<(), HandlerError>>;

impl Reservations {
    /// A handler for Try: reserves what the payload says.
    pub fn try_handler<D: LocalDatabase>(
        &self,
    ) -> impl Fn(TccBranch<D>, Json<ReserveItems>) -> Work + Clone + Send + Sync + 'static {
        let reservations = self.clone();
        move |mut branch, Json(wanted)| {
            let reservations = reservations.clone();
            async move {
                let items: Vec<_> = wanted.items.iter().map(|item| (&item.sku, item.quantity)).collect();
                Ok(reservations.reserve(&mut branch, &items).await?)
            }
            .boxed()
        }
    }

    /// A handler for Confirm: takes all that Try has reserved.
    pub fn confirm_handler<D: LocalDatabase>(
        &self,
    ) -> impl Fn(TccBranch<D>, Bytes) -> Work + Clone + Send + Sync + 'static {
        let reservations = self.clone();
        move |mut branch, _| {
            let reservations = reservations.clone();
            async move { Ok(reservations.confirm(&mut branch).await?) }.boxed()
        }
    }

    /// A handler for Cancel: gives back all that Try has reserved.
    pub fn cancel_handler<D: LocalDatabase>(
        &self,
    ) -> impl Fn(TccBranch<D>, Bytes) -> Work + Clone + Send + Sync + 'static {
        let reservations = self.clone();
        move |mut branch, _| {
            let reservations = reservations.clone();
            async move { Ok(reservations.cancel(&mut branch).await?) }.boxed()
        }
    }
}
