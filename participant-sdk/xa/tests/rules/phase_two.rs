//! Commit and rollback, from the owner and from elsewhere, and what proves how a branch ended.

use crate::on_both;
use crate::support::*;

on_both! {
    /// Repeated, a commit finds the marker row. So does one from another process.
    async fn rule_8_nota_on_commit_is_success_when_the_marker_is_there(flavor) {
        let mut bench = Bench::new(flavor).await;
        let xid = xid();
        let mut prepared = bench.prepared(xid).await;
        assert!(committed(&prepared.commit().await));
        assert!(committed(&prepared.commit().await));
        let resolution = bench.elsewhere().await.commit(&xid).await;
        assert_eq!(resolution, Resolution::Committed { reply: b"reply".as_slice().to_vec().into() });
        assert_eq!(bench.balance(1).await, 90);
    }

    /// Rolled back behind the coordinator's back: no marker, so no success.
    async fn rule_8_nota_on_commit_without_evidence_is_never_success(flavor) {
        let mut bench = Bench::new(flavor).await;
        let xid = xid();
        let prepared = bench.prepared(xid).await;
        if prepared.is_held() {
            bench.end_session(prepared.connection_id()).await;
        }
        let stolen = bench.plain.query_drop(format!("XA ROLLBACK {}", xid.to_sql())).await;
        stolen.unwrap();
        let resolution = bench.db.commit(&xid).await;
        assert!(matches!(resolution, Resolution::NoTrace { .. }), "{resolution:?}");
        // Held or not, the branch's own handle says the same.
        let mut prepared = prepared;
        let resolution = prepared.commit().await;
        assert!(matches!(resolution, Resolution::NoTrace { .. }), "{resolution:?}");
        assert_eq!(bench.balance(1).await, 100);
    }

    async fn rule_8_nota_on_commit_with_a_tombstone_is_a_rollback(flavor) {
        let bench = Bench::new(flavor).await;
        let xid = xid();
        assert!(rolled_back(&bench.db.rollback(&xid).await));
        assert!(rolled_back(&bench.db.commit(&xid).await));
    }

    /// On MariaDB the branch is attached to the session that prepared it. Another process ends that session
    /// and commits; the first then finds the marker.
    async fn rule_8_a_branch_attached_elsewhere_is_committed_by_ending_its_owner(flavor) {
        let mut bench = Bench::new(flavor).await;
        let xid = xid();
        let mut prepared = bench.prepared(xid).await;
        assert!(committed(&bench.elsewhere().await.commit(&xid).await));
        assert_eq!(bench.balance(1).await, 90);
        assert!(!bench.listed(&xid).await);
        assert!(committed(&prepared.commit().await));
    }

    /// But never a session that this process holds itself.
    async fn rule_8_a_session_of_ones_own_is_not_ended(flavor) {
        let bench = Bench::new(flavor).await;
        let xid = xid();
        let mut prepared = bench.prepared(xid).await;
        let resolution = bench.db.commit(&xid).await;
        if bench.detaches() {
            assert!(committed(&resolution));
        } else {
            assert!(matches!(resolution, Resolution::Undecided { .. }), "{resolution:?}");
            assert!(prepared.is_held());
        }
        assert!(committed(&prepared.commit().await));
    }

    /// A resource of the coordinator without a barrier table can prove nothing.
    async fn rule_8_without_a_barrier_table_nota_stays_undecided(flavor) {
        let bench = Bench::new(flavor).await;
        let url = server(flavor).url("");
        let bare = Database::connect(&url, options()).await.unwrap();
        for resolution in [bare.commit(&xid()).await, bare.rollback(&xid()).await] {
            assert!(matches!(resolution, Resolution::Undecided { .. }), "{resolution:?}");
        }
        // What is prepared it can end, though.
        for commit in [true, false] {
            let xid = xid();
            bench.abandoned(xid).await;
            if commit {
                assert!(committed(&bare.commit(&xid).await));
            } else {
                assert!(rolled_back(&bare.rollback(&xid).await));
            }
        }
    }

    /// A rollback that overtakes its branch leaves a tombstone, on which the branch fails.
    async fn rule_9_a_late_branch_fails_on_the_tombstone(flavor) {
        let mut bench = Bench::new(flavor).await;
        let xid = xid();
        assert!(rolled_back(&bench.db.rollback(&xid).await));
        let reason = no(bench.worked(xid).await.prepare(b"").await);
        assert!(reason.contains("rolled back before it arrived"), "{reason}");
        assert!(!bench.listed(&xid).await);
        assert_eq!(bench.balance(1).await, 100);
        assert_eq!(bench.barrier().await, [2]);
        // In one phase too.
        let resolution = bench.worked(xid).await.commit_one_phase(b"").await;
        assert!(rolled_back(&resolution), "{resolution:?}");
        assert_eq!(bench.balance(1).await, 100);
    }

    /// The rollback waits for nothing while the branch is still working.
    async fn rule_9_a_rollback_overtakes_work_without_blocking(flavor) {
        let mut bench = Bench::new(flavor).await;
        let xid = xid();
        let branch = bench.worked(xid).await;
        assert!(rolled_back(&bench.elsewhere().await.rollback(&xid).await));
        assert_eq!(bench.barrier().await, [2]);
        no(branch.prepare(b"").await);
        assert_eq!(bench.balance(1).await, 100);
        assert_eq!(bench.barrier().await, [2]);
    }

    /// The branch has written its marker and hangs before PREPARE: its session is ended.
    async fn rule_9_a_rollback_ends_a_branch_that_hangs_after_its_marker(flavor) {
        let mut bench = Bench::new(flavor).await;
        let xid = xid();
        let mut other = connect(&bench.url).await;
        let (name, gtid) = (xid.to_sql(), xid.gtid.to_bytes());
        let hex: String = gtid.iter().map(|byte| format!("{byte:02x}")).collect();
        let id = other.id();
        other
            .query_drop(format!(
                "XA START {name}; UPDATE account SET balance = 0; INSERT INTO concord_barrier \
                 (gtid, branch, state, connection_id, reply) VALUES (X'{hex}', 1, 1, {id}, '')"
            ))
            .await
            .unwrap();
        assert!(rolled_back(&bench.db.rollback(&xid).await));
        assert!(other.query_drop("DO 0").await.is_err(), "its session was ended");
        assert_eq!(bench.barrier().await, [2]);
        assert_eq!(bench.balance(1).await, 100);
    }

    async fn rule_9_rolling_back_what_has_committed_says_so(flavor) {
        let bench = Bench::new(flavor).await;
        let xid = xid();
        let mut prepared = bench.prepared(xid).await;
        assert!(committed(&prepared.commit().await));
        let resolution = bench.db.rollback(&xid).await;
        assert_eq!(resolution, Resolution::Committed { reply: b"reply".as_slice().to_vec().into() });
    }

    /// Commit and rollback race from many processes: all tell the same story.
    async fn rule_9_racing_ends_agree(flavor) {
        let mut bench = Bench::new(flavor).await;
        let others = [bench.elsewhere().await, bench.elsewhere().await, bench.elsewhere().await, bench.elsewhere().await];
        for _ in 0..10 {
            let xid = xid();
            let before = bench.balance(1).await;
            drop(bench.prepared(xid).await);
            let race = others.iter().enumerate().map(|(index, db)| {
                let db = db.clone();
                tokio::spawn(async move {
                    loop {
                        let resolution = if index % 2 == 0 { db.commit(&xid).await } else { db.rollback(&xid).await };
                        match resolution {
                            Resolution::Committed { .. } => return true,
                            Resolution::RolledBack { .. } | Resolution::NoTrace { .. } => return false,
                            Resolution::Undecided { .. } => {}
                        }
                    }
                })
            });
            let mut stories = Vec::new();
            for teller in race.collect::<Vec<_>>() {
                stories.push(teller.await.unwrap());
            }
            let after = bench.balance(1).await;
            assert!(stories.iter().all(|story| *story == (after < before)), "{stories:?} {before} {after}");
            assert!(!bench.listed(&xid).await);
        }
    }

    /// While it holds a prepared branch (MariaDB), a session is nobody else's; after phase two it is used again.
    async fn rule_11_a_session_with_a_prepared_branch_is_not_shared(flavor) {
        let bench = Bench::new(flavor).await;
        let mut prepared = bench.prepared(xid()).await;
        let owner = prepared.connection_id();
        let next = bench.begin(xid()).await;
        assert_eq!(next.connection_id() == owner, bench.detaches());
        next.abort().await;
        assert!(committed(&prepared.commit().await));
        let again = [bench.begin(xid()).await, bench.begin(xid()).await];
        assert!(again.iter().any(|branch| branch.connection_id() == owner), "used again");
    }

    async fn rule_11_a_session_is_discarded_after_an_xa_error(flavor) {
        let bench = Bench::new(flavor).await;
        let xid = xid();
        let prepared = bench.prepared(xid).await;
        let mut twin = bench.begin(xid).await;
        let id = twin.connection_id();
        assert_eq!(twin.exec("UPDATE account SET balance = 0", ()).await.unwrap_err().code(), Some(1440));
        no(twin.prepare(b"").await);
        let next = [bench.begin(self::xid()).await, bench.begin(self::xid()).await];
        assert!(next.iter().all(|branch| branch.connection_id() != id));
        drop(prepared);
    }

    /// What a handler leaves in a session does not reach the next branch.
    async fn rule_11_a_session_that_was_changed_is_discarded(flavor) {
        let bench = Bench::new(flavor).await;
        let mut branch = bench.begin(xid()).await;
        let id = branch.connection_id();
        branch.exec("SET SESSION sql_mode = ''", ()).await.unwrap();
        branch.exec("UPDATE account SET balance = 1 WHERE id = 1", ()).await.unwrap();
        assert!(committed(&yes(branch.prepare(b"").await).commit().await));
        assert_ne!(bench.begin(xid()).await.connection_id(), id);
    }
}

on_both! {
    async fn rule_14_one_phase(flavor) {
        let mut bench = Bench::new(flavor).await;
        let xid = xid();
        let resolution = bench.worked(xid).await.commit_one_phase(b"done").await;
        assert!(committed(&resolution), "{resolution:?}");
        assert_eq!(bench.balance(1).await, 90);
        assert_eq!(bench.db.recorded(&xid).await.unwrap(), Some(Resolution::Committed { reply: b"done".to_vec().into() }));
        // A duplicate, should it get that far, fails on the marker and answers as the first did.
        let resolution = bench.worked(xid).await.commit_one_phase(b"again").await;
        assert_eq!(resolution, Resolution::Committed { reply: b"done".to_vec().into() });
        assert_eq!(bench.balance(1).await, 90);
    }

    async fn rule_14_a_refused_one_phase_branch_leaves_a_tombstone(flavor) {
        let mut bench = Bench::new(flavor).await;
        let xid = xid();
        let mut branch = bench.begin(xid).await;
        branch.queue("UPDATE account SET balance = 0 WHERE id = 99", (), Some(1)).unwrap();
        assert!(rolled_back(&branch.commit_one_phase(b"").await));
        assert_eq!(bench.barrier().await, [2]);
        assert!(rolled_back(&bench.worked(xid).await.commit_one_phase(b"").await));
        assert_eq!(bench.balance(1).await, 100);
    }

    /// The victim of a deadlock refuses END; its ROLLBACK leaves nothing.
    async fn rule_15_a_deadlock_is_aborted_and_leaves_nothing(flavor) {
        let mut bench = Bench::new(flavor).await;
        let (first, second) = (xid(), xid());
        let mut one = bench.begin(first).await;
        let mut two = bench.begin(second).await;
        one.exec("UPDATE account SET balance = 1 WHERE id = 1", ()).await.unwrap();
        two.exec("UPDATE account SET balance = 2 WHERE id = 2", ()).await.unwrap();
        let (one_result, two_result) = tokio::join!(
            one.exec("UPDATE account SET balance = 1 WHERE id = 2", ()),
            two.exec("UPDATE account SET balance = 2 WHERE id = 1", ()),
        );
        let (survivor, victim, code) = match (one_result, two_result) {
            (Ok(_), Err(error)) => (one, two, error.code()),
            (Err(error), Ok(_)) => (two, one, error.code()),
            other => panic!("{other:?}"),
        };
        assert_eq!(code, Some(1213));
        let id = victim.connection_id();
        no(victim.prepare(b"").await);
        assert_ne!(bench.begin(xid()).await.connection_id(), id, "not used again after an XA error");
        assert!(committed(&yes(survivor.prepare(b"").await).commit().await));
        assert_eq!(bench.balance(1).await, bench.balance(2).await);
        assert!(!bench.listed(&first).await && !bench.listed(&second).await);
    }

    /// Dropped half-way, in whatever state, a branch leaves nothing and its session goes to nobody.
    async fn rule_15_a_cancelled_branch_leaves_nothing(flavor) {
        let mut bench = Bench::new(flavor).await;
        let holder = bench.worked(xid()).await;
        let mut waiting = bench.begin(xid()).await;
        let id = waiting.connection_id();
        {
            let blocked = waiting.exec("UPDATE account SET balance = 0 WHERE id = 1", ());
            tokio::pin!(blocked);
            // Polled until it waits for the row, then dropped.
            tokio::select! {
                biased;
                result = &mut blocked => panic!("it did not wait: {result:?}"),
                () = bench.until_waiting(id) => {}
            }
        }
        assert!(matches!(waiting.exec("DO 0", ()).await, Err(XaError::Failed(_))), "no going on after that");
        waiting.abort().await;
        let sql = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE id = {id}");
        assert_eq!(bench.plain.query_first::<u32, _>(sql).await.unwrap(), Some(0), "the server is not left at it");
        assert_ne!(bench.begin(xid()).await.connection_id(), id);
        assert!(committed(&yes(holder.prepare(b"").await).commit().await));
        assert_eq!(bench.balance(1).await, 90);
    }
}
