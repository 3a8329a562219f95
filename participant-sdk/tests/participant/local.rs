//! The trait for the participant's own database: the same through every driver.

use std::time::Duration;

use crate::on_both;
use crate::support::*;

const TABLE: &str = "CREATE TABLE t (id INT PRIMARY KEY, n BIGINT NULL, u BIGINT UNSIGNED NULL, tiny TINYINT(1) NULL, \
    d DECIMAL(20, 0) NULL, s VARCHAR(99) NULL, cs VARCHAR(99) COLLATE utf8mb4_bin NULL, b VARBINARY(99) NULL, \
    fixed BINARY(4) NULL, j JSON NULL, big MEDIUMBLOB NULL, txt TEXT NULL, at DATETIME NULL) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4";

fn own(url: &str) -> MySql {
    MySql::connect(url, &Options::default()).unwrap()
}

fn through_mysql_async(url: &str) -> mysql_async::Pool {
    let two = mysql_async::PoolConstraints::new(0, 2).unwrap();
    let pool = mysql_async::PoolOpts::default().with_constraints(two);
    let opts = OptsBuilder::from_opts(Opts::from_url(url).unwrap()).prefer_socket(false).pool_opts(pool);
    mysql_async::Pool::new(opts)
}

fn through_sqlx(url: &str) -> sqlx::MySqlPool {
    sqlx::mysql::MySqlPoolOptions::new().max_connections(2).connect_lazy(url).unwrap()
}

/// Runs one check through every driver.
macro_rules! through_each {
    ($world:ident, $check:ident) => {{
        $check(own(&$world.url), &mut $world).await;
        $check(through_mysql_async(&$world.url), &mut $world).await;
        $check(through_sqlx(&$world.url), &mut $world).await;
    }};
}

async fn values<D: LocalDatabase>(database: D, world: &mut World) {
    world.plain.query_drop(format!("DROP TABLE IF EXISTS t; {TABLE}")).await.unwrap();
    let all_bytes: Vec<u8> = (0..=255).collect();
    let values: Vec<SqlValue> = vec![
        1.into(),
        i64::MIN.into(),
        u64::MAX.into(),
        true.into(),
        "12345678901234567890".into(),
        "it's \\ 日本 \0 ?".into(),
        "Case".into(),
        all_bytes[..99].into(),
        [0u8, 39, 92, 255].into(),
        "{\"a\": 1}".into(),
        all_bytes.clone().into(),
        "".into(),
    ];
    let columns = "id, n, u, tiny, d, s, cs, b, fixed, j, big, txt";
    let insert = format!("INSERT INTO t ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
    // The first statement of a transaction goes another way than the others.
    let (mut transaction, inserted) = database.begin_with(&insert, values.clone()).await.unwrap();
    assert_eq!(inserted, 1);
    let mut nulls = vec![SqlValue::Null; 12];
    nulls[0] = 2.into();
    assert_eq!(transaction.execute(&insert, nulls.clone()).await.unwrap(), 1);
    let read = transaction.query(&format!("SELECT {columns} FROM t ORDER BY id"), vec![]).await.unwrap();
    assert_eq!(read, [values, nulls]);
    let sum = transaction
        .query("SELECT SUM(id), COUNT(*), MAX(b) FROM t WHERE id > ?", vec![0u32.into()])
        .await
        .unwrap();
    assert_eq!(
        (sum[0][0].as_i64(), sum[0][1].as_i64(), sum[0][2].as_bytes()),
        (Some(3), Some(2), Some(&all_bytes[..99]))
    );
    assert!(transaction.query("SELECT n FROM t WHERE id = 3", vec![]).await.unwrap().is_empty());
    // What no value can hold is named; the transaction goes on.
    let error = transaction.query("SELECT NOW() AS now_here", vec![]).await.unwrap_err();
    assert!(
        matches!(&error, LocalError::Other(why) if why.contains("now_here") && why.contains("CAST")),
        "{error}"
    );
    let error = transaction.execute("UPDATE t SET n = ? WHERE id = ?", vec![1.into()]).await.unwrap_err();
    assert!(error.code().is_none(), "{error}");
    drop(transaction);
}

async fn ends<D: LocalDatabase>(database: D, world: &mut World) {
    world.plain.query_drop("UPDATE account SET balance = 100").await.unwrap();
    let take = "UPDATE account SET balance = balance - ? WHERE id = 1";
    let (transaction, taken) = database.begin_with(take, vec![1.into()]).await.unwrap();
    assert_eq!(taken, 1);
    transaction.commit().await.unwrap();
    assert_eq!(world.balance().await, 99);
    let (transaction, _) = database.begin_with(take, vec![1.into()]).await.unwrap();
    transaction.commit_with(take, vec![8.into()]).await.unwrap();
    assert_eq!(world.balance().await, 90);
    let (transaction, _) = database.begin_with(take, vec![1.into()]).await.unwrap();
    transaction.rollback().await.unwrap();
    // The statement before COMMIT fails: nothing is committed.
    let (transaction, _) = database.begin_with(take, vec![1.into()]).await.unwrap();
    let error =
        transaction.commit_with("INSERT INTO account VALUES (?, 0)", vec![1.into()]).await.unwrap_err();
    assert_eq!(error.code(), Some(1062), "{error}");
    // The first statement fails: there is no transaction, and the connection is not lost for it.
    let error = database.begin_with("INSERT INTO account VALUES (?, 0)", vec![1.into()]).await.err().unwrap();
    assert_eq!(error.code(), Some(1062), "{error}");
    let error = database.begin_with("nonsense", vec![]).await.err().unwrap();
    assert_eq!(error.code(), Some(1064), "{error}");
    let (transaction, _) = database.begin_with(take, vec![1.into()]).await.unwrap();
    drop(transaction);
    // Waits for the row, should the dropped one still have it.
    world.plain.query_drop("UPDATE account SET balance = balance + 0 WHERE id = 1").await.unwrap();
    assert_eq!(world.balance().await, 90);
}

/// Whatever was cut off, and wherever: who comes next finds a connection as good as new.
async fn cut_off<D: LocalDatabase>(database: D, world: &mut World) {
    world.plain.query_drop("UPDATE account SET balance = 100").await.unwrap();
    let add = "UPDATE account SET balance = balance + 1 WHERE id = 1";
    for round in 0..24_u64 {
        let database = database.clone();
        let work = async move {
            let (mut transaction, _) = database.begin_with(add, vec![]).await?;
            let text = format!("SELECT id, ? AS asked, SLEEP(0.001) FROM account /* {round} */");
            for _ in 0..50 {
                transaction.query(&text, vec!["x".into()]).await?;
            }
            transaction.commit().await
        };
        // Somewhere in the middle, each time elsewhere.
        let _ = tokio::time::timeout(Duration::from_micros(300 * round), work).await;
    }
    world.plain.query_drop("UPDATE account SET balance = 100 WHERE id = 1").await.unwrap();
    for number in 0..8 {
        let (mut transaction, changed) = database.begin_with(add, vec![]).await.unwrap();
        let rows = transaction
            .query("SELECT ?, balance FROM account WHERE id = 1", vec![number.into()])
            .await
            .unwrap();
        assert_eq!(rows, [[SqlValue::Int(number), SqlValue::Int(101)]]);
        assert_eq!(changed, 1);
        transaction.rollback().await.unwrap();
    }
    assert_eq!(world.balance().await, 100);
}

/// The handler has cut a statement short and goes on as if nothing had happened: its COMMIT is not believed.
async fn cut_inside<D: LocalDatabase>(database: D, world: &mut World) {
    world.plain.query_drop("UPDATE account SET balance = 100").await.unwrap();
    let (mut transaction, _) =
        database.begin_with("UPDATE account SET balance = 0 WHERE id = 1", vec![]).await.unwrap();
    let slow = transaction.query("SELECT SLEEP(0.05) /* not prepared before */", vec![]);
    assert!(tokio::time::timeout(Duration::from_millis(10), slow).await.is_err());
    match transaction.commit().await {
        Ok(()) => assert_eq!(world.balance().await, 0, "committed, as it said"),
        Err(error) => {
            assert!(error.is_connection_lost(), "{error}");
            world.plain.query_drop("UPDATE account SET balance = balance + 0 WHERE id = 1").await.unwrap();
            assert_eq!(world.balance().await, 100);
        }
    }
    let mut transaction = database.begin().await.unwrap();
    let rows = transaction.query("SELECT 42", vec![]).await.unwrap();
    assert_eq!(rows[0][0].as_i64(), Some(42));
}

on_both! {
    async fn values_are_the_same_through_every_driver(flavor) {
        let mut world = World::new(flavor).await;
        through_each!(world, values);
    }

    async fn a_transaction_ends_as_it_is_told(flavor) {
        let mut world = World::new(flavor).await;
        through_each!(world, ends);
    }

    async fn what_is_cut_off_poisons_no_pool(flavor) {
        let mut world = World::new(flavor).await;
        through_each!(world, cut_off);
    }

    async fn a_statement_cut_short_ends_the_transaction(flavor) {
        let mut world = World::new(flavor).await;
        through_each!(world, cut_inside);
    }

    /// A transaction begun inside is a savepoint in sqlx; one that was left open is not committed over.
    async fn transactions_inside_a_transaction(flavor) {
        let mut world = World::new(flavor).await;
        let pool = through_sqlx(&world.url);
        let add = "UPDATE account SET balance = balance + 1 WHERE id = 1";
        let (mut transaction, _) = LocalDatabase::begin_with(&pool, add, vec![]).await.unwrap();
        let inner = sqlx::Connection::begin(transaction.connection_mut()).await.unwrap();
        std::mem::forget(inner);
        let error = transaction.commit().await.unwrap_err();
        assert!(error.to_string().contains("depth 2"), "{error}");
        world.plain.query_drop(add).await.unwrap();
        assert_eq!(world.balance().await, 101);
    }
}
