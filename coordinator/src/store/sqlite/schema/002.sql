-- Of an ended transaction: how many records it has before its end, and the sum of their `crc`. Null for those that
-- ended before this version.
ALTER TABLE txn ADD COLUMN records INTEGER;
ALTER TABLE txn ADD COLUMN checksums INTEGER;

-- What must be there when the store is opened next: see `seal.rs`. One row. `commits` are counted from the
-- beginning of the store; the others are about the records of live transactions: how many there are, and the sum of
-- their `crc`.
CREATE TABLE seal (
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    commits   INTEGER NOT NULL,
    records   INTEGER NOT NULL,
    checksums INTEGER NOT NULL
) STRICT;

INSERT INTO seal
    SELECT 1, 0, count(*), coalesce(sum(r.crc), 0)
    FROM txn t INDEXED BY txn_live JOIN record r ON r.gtid = t.gtid
    WHERE t.committed IS NULL;
