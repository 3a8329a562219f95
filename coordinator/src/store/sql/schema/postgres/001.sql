-- Numbers about the store itself: 'cluster_id'; 'version', of these tables; 'needs', the oldest version that a coordinator
-- must know to work with them; 'epoch' and 'term', the last ones that were given out.
CREATE TABLE IF NOT EXISTS concord_meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);

-- One row for each life of a coordinator. Others reach it at `address`. `expires_at` by this database's clock, in
-- milliseconds since the Unix epoch. `successor` is the epoch that has taken over, always one that has no successor itself;
-- from then on this one may write nothing. `commits` counts its commits: a coordinator that has lost its connection sees by
-- it whether the last one was made. `term` is raised by each take-over, beyond all that were given out before. `knows` is the
-- newest version of these tables that its program knows.
CREATE TABLE IF NOT EXISTS concord_coordinator (
    epoch      BIGINT NOT NULL PRIMARY KEY,
    name       TEXT NOT NULL,
    address    TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    successor  BIGINT,
    term       BIGINT NOT NULL,
    knows      BIGINT NOT NULL,
    commits    BIGINT NOT NULL DEFAULT 0
);

-- The log of live transactions, in the order of (term, seq): records of a successor come after those of whom it succeeds.
-- `issuer` is the epoch in the gtid: whoever has taken over that one owns the transaction. `crc` covers `term` where the
-- embedded store's covers the epoch.
CREATE TABLE IF NOT EXISTS concord_record (
    gtid   BYTEA NOT NULL,
    term   BIGINT NOT NULL,
    seq    BIGINT NOT NULL,
    issuer BIGINT NOT NULL,
    at_ms  BIGINT NOT NULL,
    crc    BIGINT NOT NULL,
    body   BYTEA NOT NULL,
    PRIMARY KEY (gtid, term, seq)
);

-- Which transaction has an idempotency key, written before it begins. Digests are SHA-256: names and keys may be longer
-- than what can be indexed.
CREATE TABLE IF NOT EXISTS concord_keyed (
    digest BYTEA NOT NULL,
    gtid   BYTEA NOT NULL,
    PRIMARY KEY (digest)
);

-- What has ended: `records` is a concord.store.v1.Records; `name` a digest, null where there is no name.
CREATE TABLE IF NOT EXISTS concord_ended (
    gtid      BYTEA NOT NULL PRIMARY KEY,
    committed SMALLINT NOT NULL,
    ended_at  BIGINT NOT NULL,
    name      BYTEA,
    records   BYTEA NOT NULL
);

CREATE INDEX IF NOT EXISTS concord_coordinator_expires ON concord_coordinator (successor, expires_at);
CREATE INDEX IF NOT EXISTS concord_record_issuer ON concord_record (issuer);
CREATE INDEX IF NOT EXISTS concord_keyed_gtid ON concord_keyed (gtid);
CREATE INDEX IF NOT EXISTS concord_ended_at ON concord_ended (ended_at, gtid);
CREATE INDEX IF NOT EXISTS concord_ended_committed ON concord_ended (committed, gtid);
CREATE INDEX IF NOT EXISTS concord_ended_name ON concord_ended (name, gtid);
