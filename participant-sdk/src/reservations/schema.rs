//! The tables, and their version.

use super::Reservations;
use super::error::ReservationError;
use super::rows::Reader;
use crate::local::{LocalDatabase, LocalTransaction};

/// Version of the tables, as it stands in their comments.
const VERSION: u32 = 1;

impl Reservations {
    /// Creates the tables if they are not there, and checks that they are of a version that this library knows.
    /// Safe to repeat, and to race.
    ///
    /// # Errors
    /// [`ReservationError::Schema`] when a table of that name is another's, or is of a newer version;
    /// [`ReservationError::Database`].
    pub async fn migrate<D: LocalDatabase>(&self, database: &D) -> Result<(), ReservationError> {
        let mut tx = database.begin().await?;
        // Each commits by itself, as DDL does.
        for statement in self.create_sql() {
            tx.execute(&statement, Vec::new()).await?;
        }
        let checked = self.check_tables(&mut tx).await;
        tx.rollback().await?;
        checked
    }

    /// The statements of [`Reservations::migrate`], for services that create their tables themselves.
    pub fn create_sql(&self) -> [String; 2] {
        let (name, items, reservations) = (self.name(), self.items_table(), self.reservations_table());
        // A BIGINT without a sign would wrap, not go below zero. DATETIME in UTC, because the hour before the
        // clock is put back comes twice in others.
        [
            format!(
                "CREATE TABLE IF NOT EXISTS {items} (
                   sku VARCHAR(64) COLLATE utf8mb4_bin NOT NULL,
                   bucket SMALLINT NOT NULL COMMENT '0; those of a split SKU are below',
                   buckets SMALLINT UNSIGNED NOT NULL COMMENT 'in use; as bucket 0 has it',
                   lanes SMALLINT UNSIGNED NOT NULL COMMENT 'rows below bucket 0; as bucket 0 has it',
                   on_hand BIGINT NOT NULL,
                   available BIGINT NOT NULL,
                   frozen BIGINT NOT NULL,
                   received BIGINT NOT NULL COMMENT 'added less removed; of all buckets together',
                   sold BIGINT NOT NULL COMMENT 'confirmed; of all buckets together',
                   PRIMARY KEY (sku, bucket),
                   CONSTRAINT {name}_available CHECK (available >= 0),
                   CONSTRAINT {name}_frozen CHECK (frozen >= 0),
                   CONSTRAINT {name}_on_hand CHECK (on_hand = available + frozen)
                 ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COMMENT='{}'",
                comment("items", VERSION)
            ),
            format!(
                "CREATE TABLE IF NOT EXISTS {reservations} (
                   gtid BINARY(16) NOT NULL,
                   branch INT UNSIGNED NOT NULL,
                   sku VARCHAR(64) COLLATE utf8mb4_bin NOT NULL,
                   bucket SMALLINT NOT NULL,
                   quantity BIGINT NOT NULL,
                   confirmed BIGINT NOT NULL DEFAULT 0,
                   state ENUM('pending', 'confirmed', 'cancelled', 'expired') NOT NULL DEFAULT 'pending',
                   reserved_at DATETIME(3) NOT NULL COMMENT 'UTC',
                   expires_at DATETIME(3) NOT NULL COMMENT 'UTC',
                   ended_at DATETIME(3) NULL COMMENT 'UTC',
                   PRIMARY KEY (gtid, branch, sku, bucket),
                   KEY overdue (state, expires_at),
                   CONSTRAINT {name}_quantity CHECK (quantity > 0),
                   CONSTRAINT {name}_confirmed CHECK (confirmed BETWEEN 0 AND quantity),
                   CONSTRAINT {name}_ended CHECK ((state = 'pending') = (ended_at IS NULL))
                 ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COMMENT='{}'",
                comment("reservations", VERSION)
            ),
        ]
    }

    async fn check_tables<T: LocalTransaction>(&self, tx: &mut T) -> Result<(), ReservationError> {
        let wanted = [(self.items_table(), "items"), (self.reservations_table(), "reservations")];
        for (table, kind) in wanted {
            let sql = "SELECT CAST(engine AS CHAR), CAST(table_comment AS CHAR) FROM information_schema.tables \
                       WHERE table_schema = DATABASE() AND table_name = ?";
            let rows = tx.query(sql, vec![table.trim_matches('`').into()]).await?;
            let Some(row) = rows.first() else {
                return Err(ReservationError::Schema(format!("there is no table {table}")));
            };
            let mut row = Reader::new("information_schema.tables", row);
            let (engine, found) = (row.optional_text()?.unwrap_or_default(), row.text()?);
            if engine != "InnoDB" {
                let reason = format!("the table {table} is of the engine {engine:?}; it must be InnoDB");
                return Err(ReservationError::Schema(reason));
            }
            check_comment(table, kind, &found)?;
        }
        Ok(())
    }
}

fn comment(kind: &str, version: u32) -> String {
    format!("concord {kind}, version {version}")
}

fn check_comment(table: &str, kind: &str, found: &str) -> Result<(), ReservationError> {
    let version = found.strip_prefix(&comment(kind, 0)[..comment(kind, 0).len() - 1]);
    match version.map(str::parse::<u32>) {
        Some(Ok(VERSION)) => Ok(()),
        Some(Ok(newer)) => Err(ReservationError::Schema(format!(
            "the table {table} is of version {newer}, this program knows version {VERSION}: update the program"
        ))),
        _ => Err(ReservationError::Schema(format!(
            "there is a table {table} that is not Concord's: give the reservations another name"
        ))),
    }
}
