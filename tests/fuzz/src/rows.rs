//! Rows of the store's file, as another program, or the disk, has left them.

use std::sync::Mutex;

use bolero::{TypeGenerator, check};
use concord_coordinator::store::{Durability, Entry, SqliteStore, Store as _, StoreError, UnixMillis};
use concord_proto::store::{Begun, Record, record::Kind};
use concord_protocol::{Epoch, Gtid};
use prost::Message as _;
use rusqlite::{Connection, params};

use crate::damage::Damage;

#[derive(Debug, Clone, TypeGenerator)]
struct Row {
    name: String,
    body: Damage,
    at: Option<i64>,
    /// None: as it should be.
    crc: Option<i64>,
}

/// CRC-32 over all that gives a row its meaning and its place, as coordinator/src/store/sqlite/row.rs has it.
fn checksum(gtid: Gtid, epoch: i64, seq: i64, at: i64, body: &[u8]) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&gtid.to_bytes());
    for number in [epoch, seq, at] {
        hasher.update(&number.to_be_bytes());
    }
    hasher.update(body);
    hasher.finalize().into()
}

/// A row is what was written, or an error that names its transaction.
#[test]
fn a_row_is_read_as_written_or_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path()).unwrap();
    let gtid = Gtid::compose(1, Epoch(1), 1);
    let begun =
        |name: &str| Record { kind: Some(Kind::Begun(Begun { name: name.into(), ..Default::default() })) };
    let entry = Entry { gtid, at: UnixMillis(1), record: begun("") };
    runtime.block_on(store.append(vec![entry], Durability::Forced)).unwrap();
    let other = Connection::open(directory.path().join("concord.db")).unwrap();
    other.execute_batch("PRAGMA synchronous = OFF").unwrap();
    let place = "SELECT epoch, seq FROM record WHERE gtid = ?1";
    let (epoch, seq) =
        other.query_row(place, [gtid.to_bytes()], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();

    // Unlike a connection and a store, a lock may be seen after a panic.
    let (other, store) = (Mutex::new(other), Mutex::new(store));
    check!().with_type::<Row>().for_each(|row| {
        let (at, body) = (row.at.unwrap_or(1), row.body.apply(begun(&row.name).encode_to_vec()));
        let right = checksum(gtid, epoch, seq, at, &body);
        let crc = row.crc.unwrap_or(right);
        let changed = other
            .lock()
            .unwrap()
            .execute(
                "UPDATE record SET at_ms = ?2, crc = ?3, body = ?4 WHERE gtid = ?1",
                params![gtid.to_bytes(), at, crc, body],
            )
            .unwrap();
        assert_eq!(changed, 1);
        match (runtime.block_on(store.lock().unwrap().get(gtid)), Record::decode(body.as_slice())) {
            (Ok(Some(stored)), Ok(record)) => {
                assert_eq!(crc, right, "a wrong checksum is overlooked");
                assert_eq!(stored.records, [(UnixMillis(at.unsigned_abs()), record)]);
            }
            (Err(StoreError::Corrupt { gtid: named, .. }), decoded) => {
                assert_eq!(named, gtid);
                assert!(crc != right || decoded.is_err(), "a good row is refused");
            }
            (answer, decoded) => panic!("{answer:?} of {decoded:?}"),
        }
    });
}
