//! `concord store`, beside a coordinator and without one.

use super::*;

/// Ends it in good order, whatever is live.
fn stop(serving: &mut Serving) {
    serving.expect(0, &["drain", "--grace-ms", "0"]);
    assert_eq!(serving.exit_code(), Some(0));
}

/// Begins transactions and rolls them back; their gtids, in order.
fn end(serving: &Serving, name: &str, count: usize) -> Vec<String> {
    let gtids = serving.begin(name, count);
    gtids.iter().for_each(|gtid| drop(serving.expect(0, &["tx", "rollback", gtid, "--reason", "enough"])));
    gtids
}

fn json(out: &str) -> Value {
    serde_json::from_str(out).unwrap()
}

fn lines(out: &str) -> Vec<Value> {
    out.lines().map(json).collect()
}

#[test]
fn a_store_is_checked_while_its_coordinator_is_stopped() {
    let mut serving = Serving::start();
    end(&serving, "ended", 3);
    let dir = serving.dir.path().to_path_buf();
    let (out, err) = expect(1, &dir, &["store", "check"]);
    assert!(out.is_empty() && err.contains("in use by a coordinator (process "), "{err}");
    assert!(err.contains("\nhint: stop the coordinator first"), "{err}");
    stop(&mut serving);

    for place in [&[][..], &["concord-data"], &["sqlite:concord-data"], &["--data-dir", "./concord-data"]] {
        let (out, _) = expect(0, &dir, &[&["store", "check"], place].concat());
        assert!(out.starts_with("store                sound\n"), "{out}");
    }
    let found = json(&expect(0, &dir, &["store", "check", "--json"]).0);
    assert_eq!(
        (&found["sound"], &found["epoch"], &found["rolled_back"]),
        (&true.into(), &1.into(), &3.into())
    );

    let file = dir.join("concord-data/concord.db");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(6).rposition(|window| window == b"enough").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let (out, err) = expect(3, &dir, &["store", "check"]);
    assert!(out.starts_with("store                damaged: 1 problem\n"), "{out}");
    assert!(out.contains("\nproblem: the store holds a record of"), "{out}");
    assert_eq!(err, "error: the store is damaged\n");
}

#[test]
fn what_is_no_store_is_refused() {
    let dir = TempDir::new().unwrap();
    for (code, place) in [(1, "none"), (3, "."), (2, "oracle://u:p@h/d"), (2, "mysql://u@h")] {
        let (out, err) = expect(code, dir.path(), &["store", "check", place]);
        assert!(out.is_empty() && err.starts_with("error: "), "{place}: {err}");
    }
    for command in [&["store", "check"][..], &["store", "export"], &["store", "backup", "b"]] {
        let (_, err) = expect(3, dir.path(), &[command, &["--data-dir", "./there"]].concat());
        assert!(
            err.contains("./there/concord.db: it does not exist. The data directory"),
            "{command:?}: {err}"
        );
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is made");
}

#[test]
fn a_backup_is_made_while_its_coordinator_runs() {
    let mut serving = Serving::start();
    let gtids = end(&serving, "before", 2);
    let dir = serving.dir.path().to_path_buf();
    // Lazy records are on record a moment later.
    let begun = Instant::now();
    while lines(&expect(0, &dir, &["store", "export"]).0).len() < 2 {
        assert!(begun.elapsed() < PATIENCE);
    }
    let (out, _) = expect(0, &dir, &["store", "backup", "one.backup"]);
    assert!(out.starts_with("store                sound\n"), "{out}");
    assert!(out.contains("no coordinator starts on it"), "{out}");
    let (_, err) = expect(1, &dir, &["store", "backup", "one.backup"]);
    assert!(err.contains("it is there already"), "{err}");
    end(&serving, "after", 1);

    let found = json(&expect(0, &dir, &["store", "check", "one.backup", "--json"]).0);
    assert_eq!((&found["sound"], &found["rolled_back"]), (&true.into(), &2.into()));
    let exported = lines(&expect(0, &dir, &["store", "export", "one.backup"]).0);
    let named: Vec<_> = exported.iter().map(|line| line["gtid"].as_str().unwrap()).collect();
    assert_eq!(named, gtids);

    // In the place of the store that it was made of, and in a directory of its own.
    stop(&mut serving);
    std::fs::create_dir(dir.join("restored")).unwrap();
    for data_dir in ["concord-data", "restored"] {
        std::fs::copy(dir.join("one.backup"), dir.join(data_dir).join("concord.db")).unwrap();
        let (_, err) = expect(3, &dir, &["serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir]);
        assert!(err.contains("it is a backup"), "{err}");
    }
}

#[test]
fn an_export_shows_what_get_shows() {
    let serving = Serving::start();
    let gtids = end(&serving, "ended", 2);
    let dir = serving.dir.path();
    let begun = Instant::now();
    let exported = loop {
        let exported = lines(&expect(0, dir, &["store", "export"]).0);
        if exported.len() == gtids.len() {
            break exported;
        }
        assert!(begun.elapsed() < PATIENCE, "{exported:?}");
    };
    for (line, gtid) in exported.iter().zip(&gtids) {
        assert_eq!(*line, serving.json(&["tx", "get", gtid]));
        assert_eq!(line["history"].as_array().unwrap().last().unwrap()["kind"], "ended");
    }
    let count = |args: &[&str]| lines(&expect(0, dir, &[&["store", "export"], args].concat()).0).len();
    assert_eq!(count(&["--state", "rolled-back"]), 2);
    assert_eq!(count(&["--state", "committed,committing"]), 0);
    assert_eq!(count(&["--since", "1h"]), 2);
    assert_eq!(count(&["--since", "2999-01-01T00:00:00Z"]), 0);
    expect(2, dir, &["store", "export", "--since", "yesterday"]);
}

#[test]
fn who_reads_a_part_of_an_export_is_no_failure() {
    let serving = Serving::start();
    end(&serving, "ended", 1);
    let program = env!("CARGO_BIN_EXE_concord");
    let script = format!("set -o pipefail; {program} store export | true");
    let status = Command::new("bash").args(["-c", &script]).current_dir(serving.dir.path()).status().unwrap();
    assert!(status.success());
}
