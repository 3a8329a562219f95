//! Who is there, and who has taken over from whom.

use concord_protocol::Epoch;

use super::Problem;
use super::link::Link;
use crate::store::{Owner, Reign};

/// Takes over from all whose lease has run out, and from earlier lives of `name`. What they had taken over goes with them:
/// a successor has none itself. Raises the own term.
pub(super) async fn take_over(link: &mut Link, epoch: Epoch, name: Option<&str>) -> Result<(), Problem> {
    let (own, now) = (epoch.0, link.dialect().now());
    let namesakes = name.map(|name| format!("OR name = {} AND epoch < {own}", link.dialect().text(name)));
    let due = format!(
        "successor IS NULL AND epoch <> {own} AND (expires_at < {now} {})",
        namesakes.unwrap_or_default()
    );
    let sql = format!("SELECT epoch FROM concord_coordinator WHERE {due} ORDER BY epoch");
    if link.query(sql, |row| row.number(0)).await?.is_empty() {
        return Ok(());
    }
    // Who holds its own row cannot be taken over meanwhile: so none of what it takes is left behind when it is.
    let sql = format!("SELECT successor FROM concord_coordinator WHERE epoch = {own} FOR UPDATE");
    link.execute("BEGIN".to_owned()).await?;
    match link.query(sql, |row| row.number_or_null(0)).await?.pop() {
        Some(None) => {}
        Some(Some(successor)) => return Err(Problem::Fenced(successor)),
        None => return Err(Problem::Refused("its row is gone".into())),
    }
    let name = link.dialect().bytes_of("name");
    let sql = format!("SELECT epoch, {name} FROM concord_coordinator WHERE {due} ORDER BY epoch FOR UPDATE");
    let lives = link.query(sql, |row| Ok((row.number(0)?, row.bytes(1)?))).await?;
    if !lives.is_empty() {
        // Now that their rows are ours: beyond every term of theirs.
        link.execute(format!(
            "UPDATE concord_meta SET value = value + 1 WHERE name = 'term'; UPDATE concord_coordinator \
             SET term = (SELECT value FROM concord_meta WHERE name = 'term') WHERE epoch = {own}"
        ))
        .await?;
    }
    for (life, _) in &lives {
        link.execute(format!(
            "UPDATE concord_coordinator SET successor = {own} WHERE epoch = {life} OR successor = {life}"
        ))
        .await?;
    }
    link.execute("COMMIT".to_owned()).await?;
    for (life, name) in lives {
        let name = String::from_utf8_lossy(&name);
        tracing::info!(epoch = life, name = &*name, "took over from a coordinator that is gone");
    }
    Ok(())
}

/// With what the records of this epoch are to be marked from now on.
pub(super) async fn term(link: &mut Link, epoch: Epoch) -> Result<i64, Problem> {
    let sql = format!("SELECT term FROM concord_coordinator WHERE epoch = {}", epoch.0);
    let term = link.query(sql, |row| row.number(0)).await?.pop();
    term.ok_or_else(|| Problem::Refused("its row is gone".into()))
}

/// The epoch itself, and all that it has taken over.
pub(super) async fn owned(link: &mut Link, epoch: Epoch) -> Result<Vec<Epoch>, Problem> {
    let own = epoch.0;
    let sql = format!("SELECT epoch FROM concord_coordinator WHERE epoch = {own} OR successor = {own}");
    epochs(link, sql).await
}

/// Those whose lease has not run out.
pub(super) async fn alive(link: &mut Link) -> Result<Vec<Epoch>, Problem> {
    let now = link.dialect().now();
    let sql = format!(
        "SELECT epoch FROM concord_coordinator WHERE successor IS NULL AND expires_at >= {now} ORDER BY epoch"
    );
    epochs(link, sql).await
}

async fn epochs(link: &mut Link, sql: String) -> Result<Vec<Epoch>, Problem> {
    let epochs = link.query(sql, |row| row.number(0)).await?;
    let epoch = |number| u32::try_from(number).map(Epoch);
    let epochs: Result<_, _> = epochs.into_iter().map(epoch).collect();
    epochs.map_err(|_| Problem::Refused("it holds an epoch that is out of range".into()))
}

/// What is known of an epoch, to the coordinator of the epoch `own`.
pub(super) async fn reign(link: &mut Link, epoch: Epoch, own: Epoch) -> Result<Reign, Problem> {
    let sql = format!(
        "SELECT c.successor, o.epoch, {} FROM concord_coordinator AS c \
         JOIN concord_coordinator AS o ON o.epoch = COALESCE(c.successor, c.epoch) WHERE c.epoch = {}",
        link.dialect().bytes_of("o.address"),
        epoch.0
    );
    let found =
        link.query(sql, |row| Ok((row.number_or_null(0)?, row.number(1)?, row.bytes(2)?))).await?.pop();
    Ok(match found {
        Some((successor, owner, _)) if owner == i64::from(own.0) => {
            Reign { owner: Owner::Us, is_over: successor.is_some() }
        }
        Some((successor, _, address)) => {
            let address = String::from_utf8_lossy(&address).into_owned();
            Reign { owner: Owner::Other { address }, is_over: successor.is_some() }
        }
        // A later one has not been given out: the store was set back to an older state.
        None => Reign { owner: Owner::Us, is_over: epoch < own },
    })
}
