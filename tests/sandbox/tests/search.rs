//! The order of the search, and the sentence when it ends with nothing.
#![allow(clippy::unwrap_used, reason = "these are tests, their helper functions included")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use concord_sandbox::{
    Environment, Error, Flavor, Located, Server, ServerOptions, Source, locate, locate_cached,
};

/// A machine with nothing on it.
fn empty(dir: &Path) -> Environment {
    Environment {
        external_url: None,
        mysqld: None,
        mariadbd: None,
        postgres: None,
        program_dirs: vec![dir.join("bin")],
        cache_dir: dir.join("cache"),
        run_dir: dir.join("run"),
        apt_dir: None,
        os_release: dir.join("os-release"),
    }
}

/// A program that only knows its version.
fn fake_server(path: &Path, banner: &str) -> PathBuf {
    write_script(path, &format!("[ \"$2\" = --version ] && echo '{banner}' || exit 7"))
}

/// Written by another process: if this one had the file open for writing while another thread forks, running the
/// script would fail with "text file busy".
fn write_script(path: &Path, script: &str) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let write = "printf '#!/bin/sh\n%s\n' \"$2\" >\"$1\" && chmod 755 \"$1\"";
    let status = Command::new("sh").args(["-c", write, "sh"]).arg(path).arg(script).status();
    assert!(status.unwrap().success());
    path.to_path_buf()
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-R").args([from, to]).status().unwrap().success());
}

const MYSQL: &str = "mysqld  Ver 9.1.0 for Linux on x86_64";
const MARIADB: &str = "mysqld  Ver 11.4.2-MariaDB for Linux on x86_64";

fn source_of(located: &Located) -> (Source, PathBuf) {
    match located {
        Located::Installed(installation) => (installation.source, installation.program.clone()),
        Located::External(external) => panic!("{external:?}"),
    }
}

#[test]
fn nothing_anywhere_is_one_clear_sentence() {
    let dir = tempfile::tempdir().unwrap();
    for flavor in Flavor::ALL {
        let error = Server::start_in(&empty(dir.path()), ServerOptions::new(flavor)).unwrap_err();
        assert!(matches!(error, Error::NoServer { .. }), "{error:?}");
        let text = error.to_string();
        for part in
            [&flavor.to_string(), "Debian", "Ubuntu", "Fedora", "macOS", "CONCORD_SANDBOX_OFFLINE", "PATH"]
        {
            assert!(text.contains(part), "no {part} in: {text}");
        }
        assert!(!text.contains('\n'), "{text}");
    }
}

#[test]
fn without_apt_or_without_sources_the_reason_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut env = Environment { apt_dir: Some(dir.path().join("apt")), ..empty(dir.path()) };
    let text = locate(&env, Flavor::MySql).unwrap_err().to_string();
    assert!(text.contains("there is no apt-get on this machine"), "{text}");
    for name in ["apt-get", "apt-cache", "dpkg-deb"] {
        fake_server(&dir.path().join("bin").join(name), "");
    }
    env.os_release = dir.path().join("another");
    let text = locate(&env, Flavor::MySql).unwrap_err().to_string();
    assert!(text.contains("no package sources for MySQL"), "{text}");
}

#[test]
fn a_failing_apt_is_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let env = Environment { apt_dir: Some(dir.path().join("apt")), ..empty(dir.path()) };
    fs::create_dir(dir.path().join("apt")).unwrap();
    fs::write(dir.path().join("apt/sources.list"), "deb http://mirror.example/debian x main\n").unwrap();
    for name in ["apt-get", "apt-cache", "dpkg-deb"] {
        write_script(&dir.path().join("bin").join(name), "echo 'E: the moon is in the way' >&2; exit 100");
    }
    let text = locate(&env, Flavor::MariaDb).unwrap_err().to_string();
    assert!(text.contains("the moon is in the way"), "{text}");
    assert_eq!(fs::read_dir(dir.path().join("cache")).unwrap().count(), 1, "only the locks stay");
}

#[test]
fn a_program_named_by_the_user_is_used_or_refused_but_never_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let good = fake_server(&dir.path().join("opt/mysqld"), MYSQL);
    let on_path = fake_server(&dir.path().join("bin/mysqld"), MYSQL);
    let env = Environment { mysqld: Some(good.clone()), ..empty(dir.path()) };
    assert_eq!(source_of(&locate_cached(&env, Flavor::MySql).unwrap()), (Source::Explicit, good));

    for (banner, reason) in [
        (MARIADB, "it is MariaDB 11.4.2"),
        ("mysqld  Ver 8.0.28 for Linux", "too old: 8.0.29 or newer"),
        ("", "--version gave"),
    ] {
        let bad = fake_server(&dir.path().join("opt/bad"), banner);
        let env = Environment { mysqld: Some(bad), ..empty(dir.path()) };
        let error = locate_cached(&env, Flavor::MySql).unwrap_err();
        assert!(matches!(error, Error::BadSetting { variable: "CONCORD_MYSQLD", .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    let env = Environment { mariadbd: Some(dir.path().join("nowhere")), ..empty(dir.path()) };
    assert!(matches!(locate_cached(&env, Flavor::MariaDb), Err(Error::BadSetting { .. })));
    // The setting for one product says nothing about the other.
    assert_eq!(source_of(&locate_cached(&env, Flavor::MySql).unwrap()), (Source::System, on_path));
}

#[test]
fn the_version_and_not_the_name_tells_the_flavour() {
    let dir = tempfile::tempdir().unwrap();
    let env = empty(dir.path());
    let program = fake_server(&dir.path().join("bin/mysqld"), MARIADB);
    assert_eq!(source_of(&locate_cached(&env, Flavor::MariaDb).unwrap()), (Source::System, program));
    let text = locate_cached(&env, Flavor::MySql).unwrap_err().to_string();
    assert!(text.contains("it is MariaDB 11.4.2"), "{text}");
}

#[test]
fn an_installed_server_that_cannot_make_a_data_directory_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let env = empty(dir.path());
    fake_server(&dir.path().join("bin/mysqld"), MYSQL);
    let text = locate(&env, Flavor::MySql).unwrap_err().to_string();
    assert!(text.contains("could not make a data directory (exit status: 7)"), "{text}");
    assert!(text.contains("the cache has none"), "{text}");
}

#[test]
fn a_damaged_cache_is_not_used() {
    let real = Environment::from_process();
    concord_sandbox::fetch(&real, Flavor::MariaDb).unwrap();
    let dir = tempfile::tempdir().unwrap();
    copy(&real.cache_dir.join("servers"), &dir.path().join("servers"));
    let env = Environment { cache_dir: dir.path().to_path_buf(), ..empty(dir.path()) };
    let (source, program) = source_of(&locate_cached(&env, Flavor::MariaDb).unwrap());
    assert_eq!(source, Source::Cache);

    // One byte in the middle: the same length, so only the checksum can tell.
    let good = dir.path().join("good");
    copy(&program, &good);
    let mut bad = fs::read(&program).unwrap();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    fs::write(&program, &bad).unwrap();
    let text = locate_cached(&env, Flavor::MariaDb).unwrap_err().to_string();
    assert!(text.contains("damaged") && text.contains("SHA-256"), "{text}");

    // Any other file is checked by its length.
    copy(&good, &program);
    assert!(locate_cached(&env, Flavor::MariaDb).is_ok());
    let library = program.ancestors().nth(2).unwrap().join("share/mysql/charsets/Index.xml");
    fs::write(&library, "").unwrap();
    let text = locate_cached(&env, Flavor::MariaDb).unwrap_err().to_string();
    assert!(text.contains("Index.xml has 0 bytes"), "{text}");

    // The next one who wants a server throws the damaged one away.
    assert!(locate(&env, Flavor::MariaDb).is_err());
    assert!(!program.exists());
}

#[test]
fn a_running_server_named_by_the_user_is_used_and_not_touched() {
    let real = Environment::from_process();
    let owned = Server::start_in(&real, ServerOptions::new(Flavor::MariaDb)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let url = format!("{}?prefer_socket=false", owned.url("ignored_database"));
    // The database of the URL need not exist; the sandbox's callers create their own.
    let url = url.replace("ignored_database", "mysql");
    let env = Environment { external_url: Some(url), ..empty(dir.path()) };
    let server = Server::start_in(&env, ServerOptions::new(Flavor::MariaDb)).unwrap();
    assert_eq!(
        server.url("bank"),
        format!("mysql://root@127.0.0.1:{}/bank?prefer_socket=false", owned.port())
    );
    assert_eq!((server.port(), server.pid(), server.is_private()), (owned.port(), None, false));
    for refused in
        [server.kill9(), server.restart_blocking(), server.stop_blocking(), server.pause(), server.resume()]
    {
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
        assert!(error.to_string().contains("CONCORD_TEST_MYSQL_URL"), "{error}");
    }
    drop(server);
    assert!(owned.pid().is_some(), "a server that is not ours was ended");
    // It is not a MySQL, so it does not serve for one.
    let text = locate(&env, Flavor::MySql).unwrap_err().to_string();
    assert!(text.contains("CONCORD_TEST_MYSQL_URL is MariaDB"), "{text}");
    // Nobody there: an error, not a silent fall back to another server.
    owned.kill9().unwrap();
    let again = Environment { run_dir: dir.path().join("other"), ..env };
    let error = locate(&again, Flavor::MariaDb).unwrap_err();
    assert!(matches!(error, Error::BadSetting { variable: "CONCORD_TEST_MYSQL_URL", .. }), "{error:?}");
}
