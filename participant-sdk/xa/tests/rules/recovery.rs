//! Finding branches in doubt.

use crate::on_both;
use crate::support::*;

on_both! {
    /// Names that are not ours, or are no text at all, are listed and never taken for ours.
    async fn rule_20_foreign_xids_are_told_apart(flavor) {
        let mut bench = Bench::new(flavor).await;
        bench.plain.query_drop("CREATE TABLE scratch (id INT AUTO_INCREMENT PRIMARY KEY)").await.unwrap();
        let ours = xid();
        let gtrid = &ours.to_sql()[..51];
        let foreign = [
            "X'FF00FE',X'80',7".to_string(),
            // Our bytes under another format id; our format id on other lengths, and on a gtid of version 4.
            format!("{gtrid},X'00000002',1"),
            format!("{gtrid},X'0003',{FORMAT_ID}"),
            format!("X'0000000000C0FFEE00000000000040008000000000000001',X'00000001',{FORMAT_ID}"),
        ];
        // Alive while the test looks: on MariaDB the branches are attached to them.
        let mut owners = Vec::new();
        for name in &foreign {
            let mut owner = connect(&bench.url).await;
            let work = format!("XA START {name}; INSERT INTO scratch VALUES (); XA END {name}; XA PREPARE {name}");
            owner.query_drop(work).await.unwrap();
            owners.push(owner);
        }
        let prepared = bench.prepared(ours).await;
        let listed = bench.db.recover().await.unwrap();
        let mine: Vec<_> = listed.iter().filter_map(|branch| branch.xid).filter(|xid| xid.gtid == ours.gtid).collect();
        assert_eq!(mine, [ours]);
        let texts: Vec<_> = listed.iter().filter(|branch| branch.xid.is_none()).map(|branch| branch.raw.to_string()).collect();
        for name in &foreign {
            let text = name.replace("X'", "0x").replace('\'', "");
            assert!(texts.contains(&text), "{text} in {texts:?}");
        }
        drop(prepared);
        for (mut owner, name) in owners.into_iter().zip(&foreign) {
            owner.query_drop(format!("XA ROLLBACK {name}")).await.unwrap();
        }
    }

    /// Without the right to list, everything but the listing works, evidence included.
    async fn rule_20_without_the_right_to_recover_phase_two_still_works(flavor) {
        let bench = Bench::new(flavor).await;
        let (name, user) = (&bench.name, format!("u{}", bench.name));
        let mut root = connect(&bench.url).await;
        let grant = format!(
            "CREATE USER '{user}'@'%' IDENTIFIED BY 'secret'; GRANT ALL ON {name}.* TO '{user}'@'%'; \
             CREATE USER '{user}'@'localhost' IDENTIFIED BY 'secret'; GRANT ALL ON {name}.* TO '{user}'@'localhost'"
        );
        root.query_drop(grant).await.unwrap();
        let url = bench.url.replace("mysql://root@", &format!("mysql://{user}:secret@"));
        assert_ne!(url, bench.url);
        let (db, elsewhere) =
            (Database::connect(&url, options()).await.unwrap(), Database::connect(&url, options()).await.unwrap());
        assert_eq!(db.recover().await.is_err(), flavor == Flavor::MySql);
        let prepare = async |xid: Xid| {
            // Ending the session that wrote the marker is how a trace is found here: it may be a pooled one.
            let db = Database::connect(&url, options()).await.unwrap();
            let mut branch = db.begin(xid.cluster, xid.gtid, xid.branch).await.unwrap();
            branch.queue("UPDATE account SET balance = balance + 1 WHERE id = 1", (), Some(1)).unwrap();
            yes(branch.prepare(b"reply").await)
        };
        // An owner that is alive, in another process.
        let first = xid();
        let owner = prepare(first).await;
        assert!(matches!(elsewhere.settle(&first, None).await, Trace::Prepared { .. }));
        assert!(committed(&elsewhere.commit(&first).await));
        drop(owner);
        // Rolled back behind one's back; nothing there; a late one.
        let second = xid();
        let mut owner = prepare(second).await;
        assert!(rolled_back(&elsewhere.rollback(&second).await));
        assert!(rolled_back(&owner.commit().await));
        let third = xid();
        assert_eq!(elsewhere.settle(&third, None).await, Trace::None);
        assert!(matches!(elsewhere.commit(&third).await, Resolution::NoTrace { .. }));
    }

    /// The same name twice at the same time: the second is refused by the server.
    async fn rule_1_an_xid_in_use_is_refused(flavor) {
        let bench = Bench::new(flavor).await;
        let xid = xid();
        let first = bench.worked(xid).await;
        let mut second = bench.begin(xid).await;
        assert_eq!(second.exec("DO 0", ()).await.unwrap_err().code(), Some(1440));
        no(second.prepare(b"").await);
        let mut prepared = yes(first.prepare(b"").await);
        let mut third = bench.begin(xid).await;
        third.queue("DO 0", (), None).unwrap();
        no(third.prepare(b"").await);
        assert!(committed(&prepared.commit().await));
    }

    async fn the_barrier_table_can_be_created_again_and_by_many(flavor) {
        let bench = Bench::new(flavor).await;
        let mut plain = connect(&bench.url).await;
        plain.query_drop("DROP TABLE concord_barrier").await.unwrap();
        let racers: Vec<_> = (0..8).map(|_| { let db = bench.db.clone(); tokio::spawn(async move { db.migrate().await }) }).collect();
        for racer in racers {
            racer.await.unwrap().unwrap();
        }
        bench.db.migrate().await.unwrap();
    }
}
