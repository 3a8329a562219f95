//! One suite that every store passes.

use super::*;
use concord_proto::store::{Begun, Ended, Record, record::Kind};

#[test]
fn smoke() {
    let dir = tempfile::tempdir().unwrap();
    let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let gtid = Gtid::compose(5, store.epoch(), 1);
    let begun = Record {
        kind: Some(Kind::Begun(Begun {
            name: "n".into(),
            idempotency_key: "k".into(),
            ..Default::default()
        })),
    };
    let ended = Record { kind: Some(Kind::Ended(Ended { committed: true, ..Default::default() })) };
    rt.block_on(async {
        store
            .append(vec![Entry { gtid, at: UnixMillis(3), record: begun }], Durability::Forced)
            .await
            .unwrap();
        assert_eq!(store.load_live().await.unwrap().len(), 1);
        store.append(vec![Entry { gtid, at: UnixMillis(9), record: ended }], Durability::Lazy).await.unwrap();
        assert_eq!(store.load_live().await.unwrap().len(), 0);
        for committed in [None, Some(true), Some(false)] {
            for name in [None, Some("n".to_owned()), Some("".to_owned())] {
                let l = store
                    .list_ended(Filter { committed, name: name.clone(), before: None, limit: 9 })
                    .await
                    .unwrap();
                println!("{committed:?} {name:?} {}", l.len());
            }
        }
        assert_eq!(store.find_key("k".into()).await.unwrap(), Some(gtid));
        println!("{:?}", store.counters());
        assert_eq!(store.purge(UnixMillis(10), 5).await.unwrap(), 1);
        assert_eq!(store.get(gtid).await.unwrap(), None);
        store.close().await.unwrap();
        drop(store);
        println!("{:?}", SqliteStore::open(dir.path()).unwrap());
    });
}
