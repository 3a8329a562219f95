//! The way to the vote.

use crate::on_both;
use crate::support::*;

on_both! {
    async fn a_branch_prepares_and_commits(flavor) {
        let mut bench = Bench::new(flavor).await;
        let xid = xid();
        let mut prepared = bench.prepared(xid).await;
        assert!(bench.listed(&xid).await);
        assert_eq!(prepared.is_held(), !bench.detaches());
        assert_eq!(bench.balance(1).await, 100);
        assert!(committed(&prepared.commit().await));
        assert!(!bench.listed(&xid).await);
        assert_eq!(bench.balance(1).await, 90);
        assert_eq!(bench.barrier().await, [1]);
    }

    async fn a_branch_prepares_and_rolls_back(flavor) {
        let mut bench = Bench::new(flavor).await;
        let xid = xid();
        let mut prepared = bench.prepared(xid).await;
        assert!(rolled_back(&prepared.rollback().await));
        assert!(!bench.listed(&xid).await);
        assert_eq!(bench.balance(1).await, 100);
        assert_eq!(bench.barrier().await, [2]);
    }

    async fn rule_2_a_queued_branch_is_one_round_trip(flavor) {
        let mut bench = Bench::new(flavor).await;
        let mut branch = bench.begin(xid()).await;
        branch.queue("UPDATE account SET balance = balance - ? WHERE id = 1", (10,), Some(1)).unwrap();
        branch.queue("UPDATE account SET balance = balance + ? WHERE id = 2", (10,), Some(1)).unwrap();
        let mut prepared = yes(branch.prepare(b"").await);
        assert!(committed(&prepared.commit().await));
        assert_eq!((bench.balance(1).await, bench.balance(2).await), (90, 110));
    }

    /// XA verbs are refused as prepared statements (1295 on MySQL); everything here goes as text, parameters
    /// of all kinds included, whatever the sql_mode.
    async fn rule_2_text_with_parameters_reads_the_same_in_every_sql_mode(flavor) {
        let mut bench = Bench::new(flavor).await;
        bench.plain.query_drop("CREATE TABLE note (id INT PRIMARY KEY, body VARBINARY(100), x DOUBLE)").await.unwrap();
        let texts: [&[u8]; 5] = [b"it's", b"back\\slash' -- \\", "日本\0 \"q\"".as_bytes(), b"\xff\xfe'", b""];
        let mut id = 0;
        for mode in ["", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES,STRICT_ALL_TABLES"] {
            let mut branch = bench.begin(xid()).await;
            branch.exec("SET SESSION sql_mode = ?", (mode,)).await.unwrap();
            for text in texts {
                id += 1;
                branch.queue("INSERT INTO note VALUES (?, ?, ?)", (id, text, 0.1 + 0.2), Some(1)).unwrap();
            }
            assert!(committed(&yes(branch.prepare(b"").await).commit().await));
        }
        let stored: Vec<(Vec<u8>, f64)> = bench.plain.query("SELECT body, x FROM note ORDER BY id").await.unwrap();
        assert_eq!(stored.len(), 15);
        for (index, (body, x)) in stored.iter().enumerate() {
            assert_eq!(body, texts[index % 5]);
            assert_eq!(*x, 0.1 + 0.2);
        }
    }

    async fn rule_6_a_failed_statement_is_a_no(flavor) {
        let mut bench = Bench::new(flavor).await;
        let mut branch = bench.worked(xid()).await;
        assert_eq!(branch.exec("INSERT INTO account VALUES (1, 0)", ()).await.unwrap_err().code(), Some(1062));
        // The handler ignores the error; the vote does not. Nor does it run anything more.
        assert!(matches!(branch.exec("UPDATE account SET balance = 0", ()).await, Err(XaError::Failed(_))));
        let reason = no(branch.prepare(b"").await);
        assert!(reason.contains("1062"), "{reason}");
        assert_eq!(bench.balance(1).await, 100);
        assert!(bench.barrier().await.is_empty());
    }

    async fn rule_6_fewer_rows_than_the_work_needs_is_a_no(flavor) {
        let mut bench = Bench::new(flavor).await;
        let mut branch = bench.begin(xid()).await;
        let update = "UPDATE account SET balance = balance - 500 WHERE id = 1 AND balance >= 500";
        assert!(matches!(branch.exec_exactly(update, (), 1).await, Err(XaError::RowCount { actual: 0, .. })));
        no(branch.prepare(b"").await);
        // Queued: it must stop before PREPARE, wherever in the queue it stands, in every sql_mode.
        for mode in ["", "STRICT_ALL_TABLES"] {
            for place in 0..3 {
                let xid = xid();
                let mut branch = bench.begin(xid).await;
                branch.exec("SET SESSION sql_mode = ?", (mode,)).await.unwrap();
                for index in 0..3 {
                    let id = if index == place { 77 } else { 2 };
                    branch.queue("UPDATE account SET balance = 0 WHERE id = ?", (id,), Some(1)).unwrap();
                }
                let reason = no(branch.prepare(b"").await);
                assert!(reason.contains("matched 0 rows, not 1"), "{reason}");
                assert!(!bench.listed(&xid).await);
            }
        }
        assert_eq!((bench.balance(1).await, bench.balance(2).await), (100, 100));
        assert!(bench.barrier().await.is_empty());
    }

    /// An UPDATE that finds the row but changes nothing has matched it.
    async fn rule_6_rows_are_counted_as_matched(flavor) {
        let bench = Bench::new(flavor).await;
        let mut branch = bench.begin(xid()).await;
        branch.exec_exactly("UPDATE account SET balance = 100 WHERE id = 1", (), 1).await.unwrap();
        branch.queue("UPDATE account SET balance = 100 WHERE id = 1", (), Some(1)).unwrap();
        branch.queue("UPDATE account SET balance = 100 WHERE id = 2", (), Some(1)).unwrap();
        assert!(rolled_back(&yes(branch.prepare(b"").await).rollback().await));
    }
}

const WRITER: &str = "CREATE FUNCTION writer() RETURNS INT DETERMINISTIC MODIFIES SQL DATA \
     BEGIN UPDATE account SET balance = balance - 10 WHERE id = 1; RETURN 1; END";

on_both! {
    async fn rule_18_a_branch_that_only_read_leaves_at_the_vote(flavor) {
        let mut bench = Bench::new(flavor).await;
        let xid = xid();
        let mut branch = bench.begin(xid).await;
        let rows = branch.query("SELECT balance FROM account WHERE id = ?", (1,)).await.unwrap();
        assert_eq!(rows.len(), 1);
        branch.query("SELECT COUNT(*) FROM account", ()).await.unwrap();
        assert!(matches!(branch.prepare(b"").await, Vote::ReadOnly));
        assert!(!bench.listed(&xid).await);
        assert!(bench.barrier().await.is_empty());
        // Without a single statement too.
        assert!(matches!(bench.begin(self::xid()).await.prepare(b"").await, Vote::ReadOnly));
    }

    /// A wrong "read-only" would lose a write: anything that is not proved to have read only is prepared.
    async fn rule_18_whatever_may_have_written_is_prepared(flavor) {
        let mut bench = Bench::new(flavor).await;
        bench.plain.query_drop(WRITER).await.unwrap();
        bench.plain.query_drop("CREATE VIEW sly AS SELECT writer() AS w").await.unwrap();
        for (index, sql) in ["SELECT writer()", "SELECT w FROM sly"].into_iter().enumerate() {
            let mut branch = bench.begin(xid()).await;
            branch.query("SELECT 1 FROM account", ()).await.unwrap();
            branch.query(sql, ()).await.unwrap();
            assert!(branch.only_reads(), "by its text it cannot be told");
            assert!(committed(&yes(branch.prepare(b"").await).commit().await), "{sql}");
            assert_eq!(bench.balance(1).await, 90 - 10 * index as i64, "{sql}");
        }
        for sql in ["SELECT * FROM account WHERE id = 1 FOR UPDATE", "SELECT * FROM account LOCK IN SHARE MODE"] {
            let mut branch = bench.begin(xid()).await;
            branch.query(sql, ()).await.unwrap();
            assert!(rolled_back(&yes(branch.prepare(b"").await).rollback().await), "{sql}");
        }
        // Through exec, or unwatched, nothing is proved.
        let mut branch = bench.begin(xid()).await;
        branch.exec("SELECT 1 FROM account", ()).await.unwrap();
        assert!(rolled_back(&yes(branch.prepare(b"").await).rollback().await));
        let mut branch = bench.begin(xid()).await;
        branch.watch_writes(false);
        branch.query("SELECT 1 FROM account", ()).await.unwrap();
        assert!(rolled_back(&yes(branch.prepare(b"").await).rollback().await));
    }

    async fn rule_18_a_declared_reader_cannot_write(flavor) {
        let mut bench = Bench::new(flavor).await;
        bench.plain.query_drop(WRITER).await.unwrap();
        for sql in ["UPDATE account SET balance = 0", "SELECT writer()"] {
            let mut branch = bench.begin(xid()).await;
            branch.set_read_only();
            branch.query("SELECT 1 FROM account", ()).await.unwrap();
            assert_eq!(branch.query(sql, ()).await.unwrap_err().code(), Some(1792));
            no(branch.prepare(b"").await);
        }
        let mut branch = bench.begin(xid()).await;
        branch.set_read_only();
        branch.exec("SELECT 1 FROM account", ()).await.unwrap();
        assert!(matches!(branch.prepare(b"").await, Vote::ReadOnly));
        // The next branch of the session writes again.
        let mut prepared = bench.prepared(xid()).await;
        assert!(committed(&prepared.commit().await));
    }

    async fn rule_19_a_branch_does_not_wait_long_for_a_lock(flavor) {
        let bench = Bench::new(flavor).await;
        let mut holder = bench.worked(xid()).await;
        let settings = holder.query("SELECT @@innodb_lock_wait_timeout, @@lock_wait_timeout, @@autocommit", ()).await;
        let (lock_wait, metadata_wait, autocommit): (u64, u64, u64) = from_row(settings.unwrap().remove(0));
        assert_eq!((lock_wait, metadata_wait, autocommit), (1, 5, 1));
        let mut waiting = bench.begin(xid()).await;
        let error = waiting.exec("UPDATE account SET balance = 0 WHERE id = 1", ()).await.unwrap_err();
        assert_eq!(error.code(), Some(1205));
        // 1205 rolls nothing back by itself: the vote must.
        no(waiting.prepare(b"").await);
        assert!(committed(&yes(holder.prepare(b"").await).commit().await));
    }

    async fn sessions_are_bounded_and_the_refusal_is_clear(flavor) {
        let bench = Bench::new(flavor).await;
        let few = Options { sessions_max: 2, session_wait: std::time::Duration::from_millis(1), ..options() };
        let db = Database::connect(&bench.url, few).await.unwrap();
        let begin = || { let xid = xid(); db.begin(xid.cluster, xid.gtid, xid.branch) };
        let held = [begin().await.unwrap(), begin().await.unwrap()];
        assert!(matches!(begin().await, Err(XaError::SessionsExhausted { max: 2 })));
        drop(held);
        begin().await.unwrap().abort().await;
    }

    async fn a_reply_is_kept_up_to_64_kib(flavor) {
        let bench = Bench::new(flavor).await;
        let (fits, too_long) = (vec![0x5c; REPLY_MAX_BYTES], vec![0; REPLY_MAX_BYTES + 1]);
        let first = xid();
        let mut prepared = yes(bench.worked(first).await.prepare(&fits).await);
        assert!(committed(&prepared.commit().await));
        assert_eq!(bench.db.recorded(&first).await.unwrap(), Some(Resolution::Committed { reply: fits.into() }));
        no(bench.worked(xid()).await.prepare(&too_long).await);
    }
}
