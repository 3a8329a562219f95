-- Facts about the store itself: 'cluster_id' and 'epoch', as big-endian bytes.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value BLOB NOT NULL,
    crc   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The log. Clustered by transaction, because it is read by transaction; gtids grow with time, so that new rows
-- still go to the right-hand end. `epoch` and `seq` give the order within a transaction: `seq` starts again
-- with each epoch, so that no counter has to be stored.
-- `crc` covers every other column: SQLite itself does not notice a flipped bit.
CREATE TABLE record (
    gtid  BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    seq   INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    crc   INTEGER NOT NULL,
    body  BLOB NOT NULL,
    PRIMARY KEY (gtid, epoch, seq)
) STRICT, WITHOUT ROWID;

-- What is asked for other than by gtid, taken from the records in the SQL transaction that writes them.
-- `committed` is null while the transaction is live.
CREATE TABLE txn (
    gtid      BLOB PRIMARY KEY,
    name      TEXT NOT NULL DEFAULT '',
    key       TEXT,
    committed INTEGER,
    ended_at  INTEGER
) STRICT, WITHOUT ROWID;

-- Partial ones, each for one question: a transaction pays only for those that it takes part in.
CREATE INDEX txn_live ON txn (gtid) WHERE committed IS NULL;
CREATE INDEX txn_key ON txn (key) WHERE key IS NOT NULL;
CREATE INDEX txn_ended_at ON txn (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX txn_rolled_back ON txn (gtid) WHERE committed = 0;
CREATE INDEX txn_name ON txn (name, gtid, committed) WHERE committed IS NOT NULL AND name <> '';
