//! Accounts: `debit` and `credit` by XA, `hold` and `promise` by TCC, `read` for all of them at once.

use concord_participant::{Builder, HandlerError, Json, Reply, XaBranch};

use super::{Entry, Handled, Step, Tcc, note, note_work};

pub(super) fn register(builder: Builder) -> Builder {
    builder
        .xa("debit", debit)
        .xa("credit", credit)
        .xa_read_only("read", read)
        .tcc("hold", hold, take_held, give_back)
        .tcc("promise", promise, keep_promise, take_back)
}

async fn debit(mut branch: XaBranch, Json(entry): Json<Entry>) -> Handled {
    let Entry { account, amount, .. } = entry;
    let sql = "UPDATE account SET balance = balance - ? WHERE id = ? AND balance >= ?";
    branch.queue_or_refuse(sql, (amount, account, amount), 1, "insufficient funds")?;
    note_work(&mut branch, &entry, -amount)
}

async fn credit(mut branch: XaBranch, Json(entry): Json<Entry>) -> Handled {
    branch.queue(
        "UPDATE account SET balance = balance + ? WHERE id = ?",
        (entry.amount, entry.account),
        1,
    )?;
    note_work(&mut branch, &entry, entry.amount)
}

/// The sum of all balances. Locks them until the branch ends, so that with grade STRICT the sums of all databases are
/// of one moment.
async fn read(mut branch: XaBranch, _payload: bytes::Bytes) -> Result<Reply, HandlerError> {
    let sql = "SELECT balance FROM account ORDER BY id LOCK IN SHARE MODE";
    let balances: Vec<(i64,)> = branch.query(sql, ()).await?;
    Reply::json(&balances.iter().map(|(balance,)| balance).sum::<i64>())
}

async fn hold(mut tcc: Tcc, Json(entry): Json<Entry>) -> Handled {
    let Entry { account, amount, .. } = entry;
    let sql = "UPDATE account SET balance = balance - ?, held = held + ? WHERE id = ? AND balance >= ?";
    if tcc.execute(sql, vec![amount.into(), amount.into(), account.into(), amount.into()]).await? != 1 {
        return Err(HandlerError::refused("insufficient funds"));
    }
    note(&mut tcc, &entry, Step::Try, 0).await
}

async fn take_held(mut tcc: Tcc, Json(entry): Json<Entry>) -> Handled {
    let Entry { account, amount, .. } = entry;
    let sql = "UPDATE account SET held = held - ? WHERE id = ?";
    tcc.execute(sql, vec![amount.into(), account.into()]).await?;
    note(&mut tcc, &entry, Step::Confirm, -amount).await
}

async fn give_back(mut tcc: Tcc, Json(entry): Json<Entry>) -> Handled {
    let Entry { account, amount, .. } = entry;
    let sql = "UPDATE account SET held = held - ?, balance = balance + ? WHERE id = ?";
    tcc.execute(sql, vec![amount.into(), amount.into(), account.into()]).await?;
    note(&mut tcc, &entry, Step::Cancel, 0).await
}

async fn promise(mut tcc: Tcc, Json(entry): Json<Entry>) -> Handled {
    let sql = "UPDATE account SET promised = promised + ? WHERE id = ?";
    tcc.execute(sql, vec![entry.amount.into(), entry.account.into()]).await?;
    note(&mut tcc, &entry, Step::Try, 0).await
}

async fn keep_promise(mut tcc: Tcc, Json(entry): Json<Entry>) -> Handled {
    let Entry { account, amount, .. } = entry;
    let sql = "UPDATE account SET promised = promised - ?, balance = balance + ? WHERE id = ?";
    tcc.execute(sql, vec![amount.into(), amount.into(), account.into()]).await?;
    note(&mut tcc, &entry, Step::Confirm, amount).await
}

async fn take_back(mut tcc: Tcc, Json(entry): Json<Entry>) -> Handled {
    let sql = "UPDATE account SET promised = promised - ? WHERE id = ?";
    tcc.execute(sql, vec![entry.amount.into(), entry.account.into()]).await?;
    note(&mut tcc, &entry, Step::Cancel, 0).await
}
