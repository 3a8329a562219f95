//! Opening the databases of the actions when the participant starts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use concord_xa::Leniency;
use concord_xa::barrier::{BARRIER_TABLE, add_confirm_reply_sql, create_sql, table_name};
use concord_xa::server::{FOREIGN_ENGINES, Purpose, VARIABLES, all, judge};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::action::Handlers;
use super::barrier::Barrier;
use super::locks::Locks;
use super::{Action, Home, Registered, Tcc};
use crate::horizon::Horizon;
use crate::local::{LocalDatabase, LocalError, LocalTransaction, SqlValue};

/// A database whose barrier table is ready.
pub(crate) struct Opened {
    /// The same for two pools of one database.
    identity: String,
    home: Arc<dyn Home>,
    /// With its name; None for a database that has no action of its own.
    action: Option<(String, Arc<dyn Action>)>,
}

/// An action whose database has not been looked at yet.
pub(crate) trait Pending: Send {
    fn open(self: Box<Self>, leniency: Leniency) -> BoxFuture<'static, Result<Opened, OpenError>>;
}

struct Unopened<D: LocalDatabase> {
    database: D,
    action: Option<(String, Handlers<D>)>,
}

/// What there is to be opened: a database, with an action or without.
pub(crate) fn pending<D: LocalDatabase>(
    database: D,
    action: Option<(String, Handlers<D>)>,
) -> Box<dyn Pending> {
    Box::new(Unopened { database, action })
}

impl<D: LocalDatabase> Pending for Unopened<D> {
    fn open(self: Box<Self>, leniency: Leniency) -> BoxFuture<'static, Result<Opened, OpenError>> {
        async move {
            let (identity, table) = prepare(&self.database, &leniency).await?;
            let barrier = Barrier::new(self.database, table);
            let home = Arc::new(barrier.clone());
            let action = self.action.map(|(name, handlers)| {
                let action: Arc<dyn Action> = Arc::new(Registered { barrier, handlers });
                (name, action)
            });
            Ok(Opened { identity, home, action })
        }
        .boxed()
    }
}

impl Tcc {
    /// Looks at every database and makes it ready.
    pub(crate) async fn open(
        all: Vec<Box<dyn Pending>>,
        leniency: &Leniency,
        horizon: Arc<Horizon>,
    ) -> Result<Self, OpenError> {
        let (mut actions, mut homes, mut known) = (HashMap::new(), Vec::new(), HashSet::new());
        for pending in all {
            let Opened { identity, home, action } = pending.open(leniency.clone()).await?;
            if known.insert(identity) {
                home.newest().await?.into_iter().for_each(|gtid| horizon.see(gtid));
                homes.push(home);
            }
            actions.extend(action);
        }
        Ok(Tcc { actions, homes, locks: Locks::default(), horizon })
    }
}

/// Why a database cannot be used for TCC branches.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the database cannot be used: {0}")]
    Unfit(String),
    #[error(transparent)]
    Database(#[from] LocalError),
}

/// Checks that the server is fit, and creates the barrier table where it is missing. Answers what identifies the
/// database, and the table's name.
async fn prepare<D: LocalDatabase>(database: &D, leniency: &Leniency) -> Result<(String, String), OpenError> {
    let mut transaction = database.begin().await?;
    check(&mut transaction, leniency).await?;
    let here = "SELECT DATABASE(), CONCAT_WS(' ', @@hostname, @@port, @@datadir, DATABASE())";
    let rows = transaction.query(here, Vec::new()).await?;
    let texts = rows.first().map(|row| row.iter().map(|value| value.as_str()).collect::<Vec<_>>());
    let Some([Some(name), Some(identity)]) = texts.as_deref() else {
        return Err(OpenError::Unfit("the pool's connections must have a default database".into()));
    };
    let table = table_name(Some(name));
    let columns = columns(&mut transaction).await?;
    if !columns.table {
        create(&mut transaction, &create_sql(&table), "create").await?;
    } else if !columns.confirm_reply {
        create(&mut transaction, &add_confirm_reply_sql(&table), "change").await?;
    }
    transaction.commit().await?;
    Ok(((*identity).to_owned(), table))
}

async fn check<T: LocalTransaction>(transaction: &mut T, leniency: &Leniency) -> Result<(), OpenError> {
    let variables = pairs(transaction.query(VARIABLES, Vec::new()).await?);
    let variables = variables.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    let foreign_engines = pairs(transaction.query(FOREIGN_ENGINES, Vec::new()).await?);
    match judge(Purpose::Local, &variables, &foreign_engines, None, leniency) {
        Ok(_) => Ok(()),
        Err(faults) => Err(OpenError::Unfit(all(&faults, "; "))),
    }
}

fn pairs(rows: Vec<Vec<SqlValue>>) -> Vec<(String, String)> {
    let text = |row: &[SqlValue], index: usize| Some(row.get(index)?.as_str()?.to_owned());
    rows.iter().filter_map(|row| Some((text(row, 0)?, text(row, 1)?))).collect()
}

struct Columns {
    table: bool,
    confirm_reply: bool,
}

/// Asks first: the user may not be allowed to create tables, and need not be.
async fn columns<T: LocalTransaction>(transaction: &mut T) -> Result<Columns, LocalError> {
    let sql = "SELECT CAST(COUNT(*) AS SIGNED), CAST(COUNT(IF(column_name = 'confirm_reply', 1, NULL)) AS SIGNED) \
         FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = ?";
    let rows = transaction.query(sql, vec![BARRIER_TABLE.into()]).await?;
    let count = |index: usize| rows.first().and_then(|row| row.get(index)?.as_i64()).unwrap_or_default();
    Ok(Columns { table: count(0) > 0, confirm_reply: count(1) > 0 })
}

async fn create<T: LocalTransaction>(transaction: &mut T, sql: &str, verb: &str) -> Result<(), OpenError> {
    match transaction.execute(sql, Vec::new()).await {
        // 1050, 1060: another process was quicker.
        Ok(_) | Err(LocalError::Server { code: 1050 | 1060, .. }) => Ok(()),
        Err(error @ LocalError::Server { .. }) => Err(OpenError::Unfit(format!(
            "cannot {verb} the table {BARRIER_TABLE} ({error}); an administrator can, once: {sql}"
        ))),
        Err(error) => Err(error.into()),
    }
}
