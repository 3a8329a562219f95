//! What is in the databases at first, where it is not the demo that fills them.

use anyhow::Result;
use concord_participant::reservations::Reservations;
use concord_participant::{LocalDatabase as _, LocalTransaction as _};
use mysql_async::Pool;

use crate::demo::catalog::{OPENING_BALANCE, PLENTY, PRICES};
use crate::payment::account;

/// Users with money.
const USERS: u32 = 100;

/// Plenty of everything that has a price.
pub(crate) fn goods() -> impl Iterator<Item = (String, i64)> {
    PRICES.iter().map(|(sku, _)| ((*sku).to_owned(), PLENTY))
}

/// Money for every user.
pub(crate) fn money() -> impl Iterator<Item = (String, i64)> {
    (1..=USERS).map(|user| (account(user), OPENING_BALANCE))
}

/// Brings in what is not there at all, so that a second start adds nothing.
///
/// # Errors
/// When the database refuses.
pub(crate) async fn fill(
    database: &Pool,
    reserved: &Reservations,
    items: impl Iterator<Item = (String, i64)>,
) -> Result<()> {
    let mut tx = database.begin().await?;
    for (item, quantity) in items {
        if reserved.item(&mut tx, &item).await?.is_none() {
            reserved.add(&mut tx, &item, quantity).await?;
        }
    }
    Ok(tx.commit().await?)
}
