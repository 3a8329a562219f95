//! Orders and frozen stock, by TCC: `order` writes an order, `reserve` freezes goods for it with the SDK's reservations,
//! `receive` brings new goods.

use concord_participant::reservations::Reservations;
use concord_participant::{Builder, Json};

use super::{Entry, Handled, Step, Tcc, note};

pub(super) fn register(builder: Builder, stock: &Reservations) -> Builder {
    let with = |step| {
        let stock = stock.clone();
        move |tcc: Tcc, Json(entry): Json<Entry>| goods(stock.clone(), tcc, entry, step)
    };
    let bring = |step| {
        let stock = stock.clone();
        move |tcc: Tcc, Json(entry): Json<Entry>| receive(stock.clone(), tcc, entry, step)
    };
    builder
        .tcc("reserve", with(Step::Try), with(Step::Confirm), with(Step::Cancel))
        .tcc("receive", bring(Step::Try), bring(Step::Confirm), bring(Step::Cancel))
        .tcc(
            "order",
            place,
            |tcc, entry| end(tcc, entry, Step::Confirm),
            |tcc, entry| end(tcc, entry, Step::Cancel),
        )
}

/// What an SKU is called.
pub fn sku(account: u32) -> String {
    format!("sku-{account}")
}

async fn goods(stock: Reservations, mut tcc: Tcc, entry: Entry, step: Step) -> Handled {
    let sold = match step {
        Step::Try => {
            stock.reserve(&mut tcc, &[(sku(entry.account), entry.amount)]).await?;
            0
        }
        Step::Confirm => {
            stock.confirm(&mut tcc).await?;
            -entry.amount
        }
        Step::Cancel | Step::Work => {
            stock.cancel(&mut tcc).await?;
            0
        }
    };
    note(&mut tcc, &entry, step, sold).await
}

/// Goods are there once they are confirmed, and not before.
async fn receive(stock: Reservations, mut tcc: Tcc, entry: Entry, step: Step) -> Handled {
    let received = if step == Step::Confirm { entry.amount } else { 0 };
    if received > 0 {
        stock.add(tcc.transaction(), &sku(entry.account), received).await?;
    }
    note(&mut tcc, &entry, step, received).await
}

async fn place(mut tcc: Tcc, Json(entry): Json<Entry>) -> Handled {
    let sql = "INSERT INTO orders (operation, state) VALUES (?, 'pending')";
    tcc.execute(sql, vec![entry.operation.into()]).await?;
    note(&mut tcc, &entry, Step::Try, 0).await
}

async fn end(mut tcc: Tcc, Json(entry): Json<Entry>, step: Step) -> Handled {
    let (state, change) = if step == Step::Confirm { ("confirmed", entry.amount) } else { ("cancelled", 0) };
    // Whether there is such an order, and how often it ends, is the barrier's business: the journal tells.
    tcc.execute(
        "UPDATE orders SET state = ? WHERE operation = ?",
        vec![state.into(), entry.operation.into()],
    )
    .await?;
    note(&mut tcc, &entry, step, change).await
}
