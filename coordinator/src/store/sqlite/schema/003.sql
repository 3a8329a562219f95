-- A transaction that has ended moves from the log to a row of its own: the log then holds what is live and nothing else,
-- and what ends costs one row, however many records it has.
-- `records` and `checksums` as they were in `txn`; `rows` is a concord.store.v1.Records.
CREATE TABLE ended (
    gtid      BLOB PRIMARY KEY,
    committed INTEGER NOT NULL,
    ended_at  INTEGER NOT NULL,
    name      TEXT NOT NULL,
    records   INTEGER,
    checksums INTEGER,
    rows      BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Of live transactions and of ended ones. Only those with a key pay for it.
CREATE TABLE keyed (
    key  TEXT NOT NULL,
    gtid BLOB NOT NULL,
    PRIMARY KEY (key, gtid)
) STRICT, WITHOUT ROWID;
CREATE INDEX keyed_gtid ON keyed (gtid);

-- A record of a transaction that is not listed must not be taken for a live one: the file is damaged, and this fails.
CREATE TEMP TABLE damaged (listed INTEGER NOT NULL);
INSERT INTO damaged SELECT t.gtid IS NOT NULL OR NULL FROM record r LEFT JOIN txn t ON t.gtid = r.gtid;
DROP TABLE damaged;

INSERT INTO keyed SELECT key, gtid FROM txn WHERE key IS NOT NULL;
INSERT INTO ended
    SELECT t.gtid, t.committed, t.ended_at, t.name, t.records, t.checksums,
           concord_rows(r.epoch, r.seq, r.at_ms, r.crc, r.body ORDER BY r.epoch, r.seq)
    FROM txn t LEFT JOIN record r ON r.gtid = t.gtid
    WHERE t.committed IS NOT NULL
    GROUP BY t.gtid;
DELETE FROM record WHERE gtid IN (SELECT gtid FROM ended);
DROP TABLE txn;

-- What says that there is a row where none is found: a bit that flips in the head of a page of `ended` can hide some.
CREATE INDEX ended_gtid ON ended (gtid, committed);
-- Partial ones, each for one question: a transaction pays only for those that it takes part in.
CREATE INDEX ended_at ON ended (ended_at);
CREATE INDEX ended_rolled_back ON ended (gtid) WHERE committed = 0;
CREATE INDEX ended_name ON ended (name, gtid, committed) WHERE name <> '';
