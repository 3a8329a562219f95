//! Answers that never arrive, and servers that go away.

use std::task::Poll;

use crate::on_both;
use crate::proxy::{Cut, Proxy};
use crate::support::*;

/// A driver that talks to the bench's server through a proxy.
async fn through_proxy(bench: &Bench) -> (Database, Proxy) {
    let proxy = Proxy::to(server(bench.flavor).port()).await;
    let url = bench.url.replace(&format!(":{}/", server(bench.flavor).port()), &format!(":{}/", proxy.port));
    (Database::connect(&url, options()).await.unwrap(), proxy)
}

async fn worked(db: &Database, xid: Xid) -> Branch {
    let mut branch = db.begin(xid.cluster, xid.gtid, xid.branch).await.unwrap();
    branch.exec_exactly("UPDATE account SET balance = balance - 10 WHERE id = 1", (), 1).await.unwrap();
    branch
}

on_both! {
    /// The database prepared, the answer was lost: unknown, and then found by evidence. Never prepared again.
    async fn rule_7_a_lost_answer_to_prepare_is_looked_up(flavor) {
        let mut bench = Bench::new(flavor).await;
        let (db, proxy) = through_proxy(&bench).await;
        let xid = xid();
        let branch = worked(&db, xid).await;
        proxy.cut("XA PREPARE", Cut::After);
        let Vote::Unknown { connection_id, .. } = branch.prepare(b"reply").await else { panic!("not unknown") };
        assert!(proxy.has_cut());
        match db.settle(&xid, Some(connection_id)).await {
            Trace::Prepared { reply } => {
                assert_eq!(&reply[..], b"reply");
                assert!(bench.listed(&xid).await);
                assert!(committed(&PreparedBranch::found(db, xid).commit().await));
                assert_eq!(bench.balance(1).await, 90);
            }
            // The first answers of the batch may have been cut before its last statement ran.
            Trace::None => {
                assert!(!bench.listed(&xid).await);
                assert_eq!(bench.balance(1).await, 100);
            }
            other => panic!("{other:?}"),
        }
    }

    /// The request never arrived: no trace, and a fence keeps it so.
    async fn rule_7_a_lost_prepare_leaves_no_trace(flavor) {
        let mut bench = Bench::new(flavor).await;
        let (db, proxy) = through_proxy(&bench).await;
        let xid = xid();
        let branch = worked(&db, xid).await;
        proxy.cut("XA PREPARE", Cut::Before);
        let Vote::Unknown { connection_id, .. } = branch.prepare(b"").await else { panic!("not unknown") };
        assert_eq!(db.settle(&xid, Some(connection_id)).await, Trace::None);
        assert!(rolled_back(&db.fence(&xid, "lost").await));
        no(bench.worked(xid).await.prepare(b"").await);
        assert_eq!(bench.balance(1).await, 100);
    }

    /// An earlier life of the process prepared; this one knows nothing.
    async fn rule_7_after_a_restart_the_trace_is_found(flavor) {
        let bench = Bench::new(flavor).await;
        let (one, two) = (xid(), xid());
        let prepared = bench.prepared(one).await;
        // Its sessions are still open on the server, as those of a frozen process would be.
        let elsewhere = bench.elsewhere().await;
        assert_eq!(elsewhere.settle(&one, None).await, Trace::Prepared { reply: b"reply".to_vec().into() });
        assert_eq!(elsewhere.settle(&two, None).await, Trace::None);
        assert!(committed(&elsewhere.commit(&one).await));
        assert!(matches!(elsewhere.settle(&one, None).await, Trace::Ended(Resolution::Committed { .. })));
        drop(prepared);
    }

    /// The answer to COMMIT was lost: undecided, or settled by evidence; never a failure.
    async fn rule_16_a_lost_answer_to_commit_is_undecided_until_proved(flavor) {
        let mut bench = Bench::new(flavor).await;
        let (db, proxy) = through_proxy(&bench).await;
        let mut expected = 100;
        for cut in [Cut::After, Cut::Before] {
            let xid = xid();
            let mut prepared = yes(worked(&db, xid).await.prepare(b"").await);
            proxy.cut("XA COMMIT", cut);
            let mut resolution = prepared.commit().await;
            assert!(proxy.has_cut());
            while let Resolution::Undecided { .. } = resolution {
                resolution = prepared.commit().await;
            }
            assert!(committed(&resolution), "{resolution:?}");
            expected -= 10;
            assert_eq!(bench.balance(1).await, expected);
        }
    }

    async fn rule_16_a_lost_answer_to_one_phase_is_settled_by_the_marker(flavor) {
        let mut bench = Bench::new(flavor).await;
        let (db, proxy) = through_proxy(&bench).await;
        for cut in [Cut::After, Cut::Before] {
            let xid = xid();
            let before = bench.balance(1).await;
            let branch = worked(&db, xid).await;
            proxy.cut("ONE PHASE", cut);
            let resolution = branch.commit_one_phase(b"reply").await;
            let taken = before - bench.balance(1).await;
            match resolution {
                Resolution::Committed { .. } => assert_eq!(taken, 10),
                Resolution::RolledBack { .. } => assert_eq!(taken, 0),
                other => panic!("{other:?}"),
            }
            if cut == Cut::Before {
                assert_eq!(taken, 0);
            }
        }
    }
}

/// Polls a future so many times, then drops it.
async fn cut_after<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut count = 0;
    std::future::poll_fn(|context| {
        count += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if count >= polls => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

on_both! {
    /// A caller may drop PREPARE or COMMIT at any await. What became of the branch is then found out, nothing
    /// is torn, and no session is left in a state that reaches another branch.
    async fn rule_11_and_15_cancelled_anywhere(flavor) {
        let mut bench = Bench::new(flavor).await;
        let mut expected = 100;
        for polls in 1..12 {
            let xid = xid();
            let mut branch = bench.begin(xid).await;
            let id = branch.connection_id();
            branch.queue("UPDATE account SET balance = balance - 1 WHERE id = 1", (), Some(1)).unwrap();
            let mut prepared = match cut_after(branch.prepare(b""), polls).await {
                Some(vote) => yes(vote),
                None => match bench.db.settle(&xid, Some(id)).await {
                    Trace::Prepared { .. } => PreparedBranch::found(bench.db.clone(), xid),
                    Trace::None => {
                        assert!(rolled_back(&bench.db.fence(&xid, "cut").await));
                        continue;
                    }
                    other => panic!("{other:?}"),
                },
            };
            let mut resolution = cut_after(prepared.commit(), polls).await;
            while !matches!(resolution, Some(Resolution::Committed { .. })) {
                assert!(matches!(resolution, None | Some(Resolution::Undecided { .. })), "{resolution:?}");
                resolution = Some(prepared.commit().await);
            }
            expected -= 1;
            assert_eq!(bench.balance(1).await, expected);
        }
        assert_eq!(bench.balance(1).await, expected);
        assert!(expected < 100, "some got through");
    }

    /// A branch that wrote nothing and was prepared all the same, by another program: MariaDB forgets it with
    /// its connection and answers 1402. Whatever is said of it, it is not left undecided for ever.
    async fn rule_17_a_forgotten_branch_comes_to_an_end(flavor) {
        let bench = Bench::new(flavor).await;
        let xid = xid();
        let name = xid.to_sql();
        let mut owner = connect(&bench.url).await;
        owner.query_drop(format!("XA START {name}; SELECT * FROM account; XA END {name}; XA PREPARE {name}")).await.unwrap();
        let id = owner.id();
        bench.end_session(id).await;
        let resolution = bench.db.commit(&xid).await;
        assert!(!matches!(resolution, Resolution::Undecided { .. }), "{resolution:?}");
        assert_eq!(committed(&resolution), bench.detaches());
    }
}
