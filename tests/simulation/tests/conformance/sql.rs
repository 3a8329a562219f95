//! Statements of the simulated database, as real servers understand them.

use concord_protocol::Gtid;
use concord_simulation::database::{Statement, barrier};

/// The tables. Those of the SDK have more columns; none of them is a key.
pub(crate) const TABLES: &str = "
    CREATE TABLE account (id INT UNSIGNED PRIMARY KEY, balance BIGINT NOT NULL, frozen BIGINT NOT NULL) ENGINE=InnoDB;
    CREATE TABLE note (id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, account INT UNSIGNED NOT NULL) ENGINE=InnoDB;
    CREATE TABLE barrier (
        gtid BINARY(16) NOT NULL, branch INT UNSIGNED NOT NULL, state TINYINT UNSIGNED NOT NULL,
        connection_id BIGINT UNSIGNED NOT NULL, PRIMARY KEY (gtid, branch)
    ) ENGINE=InnoDB";

pub(crate) fn hex(gtid: Gtid) -> String {
    let digits: String = gtid.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("X'{digits}'")
}

/// The text of a statement. `KILL` and looks at sessions are not among them: they name sessions.
pub(crate) fn of(statement: &Statement) -> String {
    let the_row = |gtid: &Gtid, branch: &u32| format!("WHERE gtid = {} AND branch = {branch}", hex(*gtid));
    match statement {
        // As the SDK's sessions for branches are, if the service does not say otherwise.
        Statement::XaStart(xid) => {
            format!("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ; XA START {}", xid.to_sql())
        }
        Statement::XaEnd(xid) => format!("XA END {}", xid.to_sql()),
        Statement::XaPrepare(xid) => format!("XA PREPARE {}", xid.to_sql()),
        Statement::XaCommit(xid) => format!("XA COMMIT {}", xid.to_sql()),
        Statement::XaCommitOnePhase(xid) => format!("XA COMMIT {} ONE PHASE", xid.to_sql()),
        Statement::XaRollback(xid) => format!("XA ROLLBACK {}", xid.to_sql()),
        Statement::XaRecover => "XA RECOVER".into(),
        // As the SDK's sessions for local transactions are.
        Statement::Begin => "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; BEGIN".into(),
        Statement::Commit => "COMMIT".into(),
        Statement::Rollback => "ROLLBACK".into(),
        Statement::Change { account: (_, id), balance, frozen } => format!(
            "UPDATE account SET balance = balance + {balance}, frozen = frozen + {frozen} \
             WHERE id = {id} AND balance + {balance} >= 0 AND frozen + {frozen} >= 0"
        ),
        Statement::Read((_, id)) => format!("SELECT balance, frozen FROM account WHERE id = {id}"),
        Statement::Note(note) => format!("INSERT INTO note (account) VALUES ({})", note.account.1),
        Statement::Guard(rows) => {
            format!("SET @guard = IF(ROW_COUNT() = {rows}, 1, (SELECT 1 UNION ALL SELECT 2))")
        }
        Statement::Marker(_, gtid, branch, rows) => {
            let state = match rows {
                Some(rows) => format!("IF(ROW_COUNT() = {rows}, {}, NULL)", barrier::MARKER),
                None => barrier::MARKER.to_string(),
            };
            format!("INSERT INTO barrier VALUES ({}, {branch}, {state}, CONNECTION_ID())", hex(*gtid))
        }
        Statement::Barrier { gtid, branch, new, tried, touch, .. } => {
            let update = match (tried, touch) {
                (Some(tried), _) => format!("state = IF(state = {}, {tried}, state)", barrier::TRIED),
                (None, true) => "connection_id = connection_id + 1".into(),
                (None, false) => "state = state".into(),
            };
            format!(
                "INSERT INTO barrier VALUES ({}, {branch}, {new}, 0) ON DUPLICATE KEY UPDATE {update}",
                hex(*gtid)
            )
        }
        Statement::Confirm(_, gtid, branch) => format!(
            "UPDATE barrier SET state = {} {} AND state = {}",
            barrier::CONFIRMED,
            the_row(gtid, branch),
            barrier::TRIED
        ),
        Statement::Look(_, gtid, branch, _) => {
            format!("SELECT state, connection_id FROM barrier {}", the_row(gtid, branch))
        }
        Statement::Kill(_) | Statement::Process(_) => unreachable!("they name sessions"),
    }
}
