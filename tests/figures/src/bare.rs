//! The same SQL driven by a bare XA client: no coordinator, no participants, no log, and nobody to clean up
//! after a crash. Once with the marker rows that the participants write, which is exactly the same SQL, and once
//! without.

use anyhow::Result;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Value};

use crate::bank::{LEDGER, UPDATE};
use crate::stage::ACCOUNTS;

/// One client: a connection to each database.
pub(crate) struct Client {
    connections: [Conn; 2],
    number: usize,
    transfers: u64,
}

impl Client {
    pub(crate) async fn connect(urls: &[String; 2], number: usize) -> Result<Client> {
        let connections = [Conn::from_url(&urls[0]).await?, Conn::from_url(&urls[1]).await?];
        Ok(Client { connections, number, transfers: 0 })
    }

    /// One transfer: the branches in parallel, each with its work and PREPARE in one round trip, then the
    /// commits in parallel.
    pub(crate) async fn transfer(&mut self, marker: bool) -> Result<()> {
        self.transfers += 1;
        let amount = rand::random_range(1..10);
        let (number, transfers, run) = (self.number, self.transfers, std::process::id());
        let xid = |bank: u8| format!("X'{run:08x}{number:08x}{transfers:016x}', X'{bank:02x}', 1");
        let work = |bank: u8, amount: i64| {
            let (account, name) = (rand::random_range(1..=ACCOUNTS), xid(bank));
            let (amount, account) = (Value::from(amount), Value::from(account));
            let update = fill(UPDATE, &[&amount, &account, &amount]);
            let ledger = fill(LEDGER, &[&account, &amount]);
            let marker = match marker {
                true => format!(
                    "INSERT INTO concord_barrier (gtid, branch, state, connection_id, reply) VALUES \
                     (X'{run:08x}{number:08x}{transfers:016x}', {bank}, IF(ROW_COUNT() = 1, 1, NULL), 0, X''); "
                ),
                false => String::new(),
            };
            format!("XA START {name}; {ledger}; {update}; {marker}XA END {name}; XA PREPARE {name}")
        };
        let [a, b] = &mut self.connections;
        tokio::try_join!(a.query_drop(work(0, -amount)), b.query_drop(work(1, amount)))?;
        let commit = |bank| format!("XA COMMIT {}", xid(bank));
        tokio::try_join!(a.query_drop(commit(0)), b.query_drop(commit(1)))?;
        Ok(())
    }
}

fn fill(sql: &str, values: &[&Value]) -> String {
    let mut values = values.iter();
    sql.chars().fold(String::with_capacity(sql.len() + 32), |mut text, letter| {
        match (letter, values.as_slice().first()) {
            ('?', Some(value)) => {
                text.push_str(&value.as_sql(false));
                values.next();
            }
            _ => text.push(letter),
        }
        text
    })
}
