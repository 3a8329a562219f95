//! Servers that are set up badly, restarted or killed. Each test has one of its own.

use crate::on_both;
use crate::support::*;

fn faults(result: Result<Database, XaError>) -> String {
    match result {
        Err(XaError::Unfit(faults)) => server::all(&faults, "\n"),
        other => panic!("expected an unfit server, got {other:?}"),
    }
}

on_both! {
    /// Nothing is taken from the server's defaults that matters (docs/xa.md rule 12: autocommit).
    async fn rule_12_odd_defaults_do_no_harm(flavor) {
        let server = start(flavor, &["--autocommit=0", "--sql-mode=NO_BACKSLASH_ESCAPES,ANSI_QUOTES", "--transaction-isolation=SERIALIZABLE"]);
        let mut bench = Bench::on(&server).await;
        bench.plain.query_drop("COMMIT; SET autocommit = 1").await.unwrap();
        let (one, two, three) = (xid(), xid(), xid());
        let prepared = bench.prepared(one).await;
        assert!(committed(&bench.elsewhere().await.commit(&one).await));
        assert_eq!(bench.balance(1).await, 90);
        let mut second = bench.prepared(two).await;
        assert!(rolled_back(&second.rollback().await));
        assert!(committed(&bench.worked(three).await.commit_one_phase(b"").await));
        assert_eq!(bench.balance(1).await, 80);
        assert_eq!(bench.barrier().await, [1, 2, 1]);
        drop(prepared);
    }

    async fn rule_19_an_unfit_server_is_refused_with_the_reason(flavor) {
        let server = start(flavor, &[]);
        let mut bench = Bench::on(&server).await;
        let connect = || Database::connect(&bench.url, options());
        bench.plain.query_drop("CREATE TABLE audit (id INT) ENGINE=MyISAM; CREATE TABLE cache (id INT) ENGINE=MEMORY").await.unwrap();
        let words = faults(connect().await);
        assert!(words.contains("audit") && words.contains("MyISAM") && words.contains("cache"), "{words}");
        let leniency = Leniency { ignore_tables: vec!["audit".into(), "cache".into()], ..Leniency::default() };
        Database::connect(&bench.url, Options { leniency, ..options() }).await.unwrap();
        bench.plain.query_drop("DROP TABLE audit, cache").await.unwrap();
        for (variable, bad, good) in [("innodb_flush_log_at_trx_commit", "2", "1"), ("sync_binlog", "0", "1")] {
            bench.plain.query_drop(format!("SET GLOBAL {variable} = {bad}")).await.unwrap();
            assert!(faults(connect().await).contains(variable));
            let leniency = Leniency { allow_relaxed_durability: true, ..Leniency::default() };
            Database::connect(&bench.url, Options { leniency, ..options() }).await.unwrap();
            bench.plain.query_drop(format!("SET GLOBAL {variable} = {good}")).await.unwrap();
        }
        if flavor == Flavor::MySql {
            bench.plain.query_drop("SET GLOBAL xa_detach_on_prepare = OFF").await.unwrap();
            assert!(faults(connect().await).contains("xa_detach_on_prepare"));
        }
    }

    /// Prepared before kill -9, found and ended after it, by a process that knows nothing of it. Meanwhile the
    /// outcome stays undecided (docs/xa.md rule 16).
    async fn rule_10_and_16_a_server_killed_between_prepare_and_commit(flavor) {
        let server = start(flavor, &[]);
        let mut bench = Bench::on(&server).await;
        let (one, two, three) = (xid(), xid(), xid());
        let mut first = bench.prepared(one).await;
        let mut branch = bench.begin(two).await;
        branch.queue("UPDATE account SET balance = balance + 10 WHERE id = 2", (), Some(1)).unwrap();
        let second = yes(branch.prepare(b"reply").await);
        let unvoted = bench.begin(three).await;
        server.kill9().unwrap();
        let resolution = first.commit().await;
        assert!(matches!(resolution, Resolution::Undecided { .. }), "{resolution:?}");
        assert!(matches!(bench.db.rollback(&one).await, Resolution::Undecided { .. }));
        assert!(matches!(bench.db.settle(&one, None).await, Trace::Unknown { .. }));
        no(unvoted_vote(unvoted).await);
        server.restart().await.unwrap();
        bench.plain = connect(&bench.url).await;
        // Sweep again after every restart of a server: MariaDB may bring back what was ended before.
        let mut found: Vec<_> = bench.db.recover().await.unwrap().into_iter().filter_map(|branch| branch.xid).collect();
        found.sort();
        assert_eq!(found, [one, two]);
        assert_eq!(bench.db.settle(&two, None).await, Trace::Prepared { reply: b"reply".to_vec().into() });
        assert!(committed(&first.commit().await));
        assert!(rolled_back(&bench.elsewhere().await.rollback(&two).await));
        assert_eq!((bench.balance(1).await, bench.balance(2).await), (90, 100));
        assert!(bench.db.recover().await.unwrap().is_empty());
        assert_eq!(bench.db.settle(&three, None).await, Trace::None);
        drop(second);
    }

    /// After a restart the numbers of sessions start again: the one in an old marker row is someone else now,
    /// and must not be killed.
    async fn rule_8_after_a_restart_nobody_is_killed_by_mistake(flavor) {
        let server = start(flavor, &[]);
        let mut bench = Bench::on(&server).await;
        let (user, name) = ("limited", bench.name.clone());
        for host in ["%", "localhost"] {
            let grant = format!("CREATE USER {user}@'{host}' IDENTIFIED BY 'x'; GRANT ALL ON {name}.* TO {user}@'{host}'");
            bench.plain.query_drop(grant).await.unwrap();
        }
        let xid = xid();
        let owner = bench.prepared(xid).await.connection_id();
        // The server's uptime is off by up to a second either way; the row must be older than that.
        tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
        server.kill9().unwrap();
        server.restart().await.unwrap();
        // Someone gets the old number, or one beyond it.
        let mut others = Vec::new();
        loop {
            let other = connect(&bench.url).await;
            let id = other.id();
            others.push(other);
            if id >= owner {
                break;
            }
        }
        let url = bench.url.replace("mysql://root@", &format!("mysql://{user}:x@"));
        let limited = Database::connect(&url, options()).await.unwrap();
        assert!(matches!(limited.settle(&xid, None).await, Trace::Prepared { .. }));
        let elsewhere = bench.elsewhere().await;
        assert!(matches!(elsewhere.settle(&xid, None).await, Trace::Prepared { .. }));
        assert!(committed(&elsewhere.commit(&xid).await));
        for other in &mut others {
            other.query_drop("DO 0").await.expect("nobody was killed");
        }
        bench.plain = others.remove(0);
        assert_eq!(bench.balance(1).await, 90);
    }

    /// A frozen server is waited for no longer than allowed, and the outcome is undecided.
    async fn rule_16_a_server_that_does_not_answer_is_undecided(flavor) {
        let server = start(flavor, &[]);
        let bench = Bench::on(&server).await;
        let hasty = Options { control_timeout: std::time::Duration::from_millis(200), ..options() };
        let db = Database::connect(&bench.url, hasty).await.unwrap();
        let xid = xid();
        drop(bench.prepared(xid).await);
        server.pause().unwrap();
        assert!(matches!(db.commit(&xid).await, Resolution::Undecided { .. }));
        assert!(matches!(db.rollback(&xid).await, Resolution::Undecided { .. }));
        server.resume().unwrap();
        loop {
            match db.commit(&xid).await {
                Resolution::Undecided { .. } => {}
                resolution => break assert!(committed(&resolution), "{resolution:?}"),
            }
        }
    }
}

/// A branch whose server has gone can only vote no.
async fn unvoted_vote(mut branch: Branch) -> Vote {
    assert!(branch.exec("UPDATE account SET balance = 0", ()).await.is_err());
    branch.prepare(b"").await
}
