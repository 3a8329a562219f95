-- Numbers about the store itself: 'cluster_id'; 'version', of these tables; 'needs', the oldest version that a coordinator
-- must know to work with them; 'epoch' and 'term', the last ones that were given out.
CREATE TABLE IF NOT EXISTS concord_meta (
    name  VARCHAR(32) NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
) ENGINE = InnoDB;

-- One row for each life of a coordinator. Others reach it at `address`. `expires_at` by this database's clock, in
-- milliseconds since the Unix epoch. `successor` is the epoch that has taken over, always one that has no successor itself;
-- from then on this one may write nothing. `commits` counts its commits: a coordinator that has lost its connection sees by
-- it whether the last one was made. `term` is raised by each take-over, beyond all that were given out before. `knows` is the
-- newest version of these tables that its program knows.
CREATE TABLE IF NOT EXISTS concord_coordinator (
    epoch      BIGINT NOT NULL PRIMARY KEY,
    name       VARCHAR(255) NOT NULL,
    address    VARCHAR(255) NOT NULL,
    expires_at BIGINT NOT NULL,
    successor  BIGINT,
    term       BIGINT NOT NULL,
    knows      BIGINT NOT NULL,
    commits    BIGINT NOT NULL DEFAULT 0,
    KEY (successor, expires_at)
) ENGINE = InnoDB;

-- The log of live transactions, in the order of (term, seq): records of a successor come after those of whom it succeeds.
-- `issuer` is the epoch in the gtid: whoever has taken over that one owns the transaction. `crc` covers `term` where the
-- embedded store's covers the epoch.
CREATE TABLE IF NOT EXISTS concord_record (
    gtid   BINARY(16) NOT NULL,
    term   BIGINT NOT NULL,
    seq    BIGINT NOT NULL,
    issuer BIGINT NOT NULL,
    at_ms  BIGINT NOT NULL,
    crc    BIGINT NOT NULL,
    body   LONGBLOB NOT NULL,
    PRIMARY KEY (gtid, term, seq),
    KEY (issuer)
) ENGINE = InnoDB;

-- Which transaction has an idempotency key, written before it begins. Digests are SHA-256: names and keys may be longer
-- than what can be indexed.
CREATE TABLE IF NOT EXISTS concord_keyed (
    digest BINARY(32) NOT NULL,
    gtid   BINARY(16) NOT NULL,
    PRIMARY KEY (digest),
    KEY (gtid)
) ENGINE = InnoDB;

-- What has ended: `records` is a concord.store.v1.Records; `name` a digest, null where there is no name.
CREATE TABLE IF NOT EXISTS concord_ended (
    gtid      BINARY(16) NOT NULL PRIMARY KEY,
    committed SMALLINT NOT NULL,
    ended_at  BIGINT NOT NULL,
    name      BINARY(32),
    records   LONGBLOB NOT NULL,
    KEY (ended_at, gtid),
    KEY (committed, gtid),
    KEY (name, gtid)
) ENGINE = InnoDB;
