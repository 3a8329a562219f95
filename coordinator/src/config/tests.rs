//! The layers together, the error texts, and the printed forms.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

#[track_caller]
fn refused(text: &str) -> Vec<String> {
    Config::from_toml(text, "concord.toml").unwrap_err().problems().collect()
}

#[track_caller]
fn refused_once(text: &str, expected: &str) {
    assert_eq!(refused(text), [expected], "for {text:?}");
}

fn environment(variables: &[(&str, &str)]) -> Sources {
    let environment = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Sources { environment, ..Sources::default() }
}

fn flag(flag: &str, key: &str, value: &str) -> Flag {
    Flag { flag: flag.into(), key: key.into(), value: FlagValue::One(value.into()) }
}

#[test]
fn nothing_set_is_the_defaults() {
    assert_eq!(Config::from_toml("", "concord.toml").unwrap(), Config::default());
    assert_eq!(Config::load(&Sources::default()).unwrap().config, Config::default());
}

#[test]
fn the_example_holds_every_key_and_the_defaults() {
    let example = example();
    assert_eq!(Config::from_toml(&example, "example").unwrap(), Config::default());
    for key in keys::KEYS {
        assert!(example.contains(&format!("\n{} = ", key.name)), "{}", key.path());
    }
    for line in example.lines() {
        assert!(line.chars().count() <= 120, "{line}");
    }
    // With the comment signs of the service and the resource off it is still a configuration.
    let (before, tables) = example.split_once("#\n# [[service]]").unwrap();
    let (service, resource) = tables.split_once("\n\n").unwrap();
    let resource = &resource[resource.find("# [[resource]]").unwrap() - 1..];
    let tables = format!("[[service]]{service}{resource}").replace("\n# ", "\n");
    let config = Config::from_toml(&format!("{before}{tables}"), "example").unwrap();
    assert_eq!(config.services[0].addresses.len(), 2);
    assert_eq!(config.resources.len(), 1);
    assert_eq!(config.resources[0].url.address(), "127.0.0.1:3306/bank");
}

#[test]
fn unknown_names_are_refused_with_the_nearest() {
    refused_once(
        "\n\n\n\n\n[server]\nliste = 1\n",
        r#"concord.toml:7: unknown key "liste" in [server]; did you mean "listen"?"#,
    );
    refused_once("[sever]\n", r#"concord.toml:1: unknown table [sever]; did you mean "server"?"#);
    refused_once(
        "server.liste = 1",
        r#"concord.toml:1: unknown key "liste" in [server]; did you mean "listen"?"#,
    );
    refused_once(
        "[server]\ninterval_ms = 5",
        r#"concord.toml:2: unknown key "interval_ms" in [server]; did you mean "interval_ms" in [sweeper]?"#,
    );
    refused_once(
        "[server]\nfoo = 5",
        r#"concord.toml:2: unknown key "foo" in [server]; known are listen, tls_certificate, tls_key, tls_client_ca, max_connections, first_call_timeout_ms"#,
    );
    refused_once(
        "listen = 'x'",
        r#"concord.toml:1: unknown key "listen" outside of any table; it belongs in [server]"#,
    );
    refused_once(
        "[[resources]]\nname = 'x'",
        "concord.toml:1: unknown key \"resources\" outside of any table; known are the tables server, security, store, cluster, \
         limits, transaction, calls, phase_two, breaker, participants, sweeper, alert, shutdown, log, tracing",
    );
    refused_once(
        "[[resource]]\nname = 'a'\nurl = 'mysql://u@h/d'\nparticipant = []\n",
        r#"concord.toml:4: unknown key "participant" in [[resource]]; did you mean "participants"?"#,
    );
}

#[test]
fn values_outside_their_limits_are_refused() {
    refused_once(
        "[limits]\nbranches_max = 1001",
        "concord.toml:2: limits.branches_max = 1001: must be an integer from 1 to 1000",
    );
    refused_once(
        "[limits]\nbranches_max = -1",
        "concord.toml:2: limits.branches_max = -1: must be an integer from 1 to 1000",
    );
    refused_once(
        "[limits]\nbranches_max = '5'",
        "concord.toml:2: limits.branches_max = \"5\": must be an integer from 1 to 1000, not a string",
    );
    refused_once(
        "[calls]\ntimeout_ms = 2.5",
        "concord.toml:2: calls.timeout_ms: must be an integer from 1 to 600000, not a decimal fraction",
    );
    refused_once(
        "[server]\nlisten = 'localhost'",
        "concord.toml:2: server.listen = \"localhost\": must be an IP address and a port, such as \
         \"127.0.0.1:7600\" or \"[::1]:7600\"",
    );
    refused_once(
        "[server]\nlisten = 7600",
        "concord.toml:2: server.listen = 7600: must be a string, not an integer",
    );
    refused_once("server = 7600", "concord.toml:1: `server` must be a table, [server]");
    refused_once("[log]\nformat = 'xml'", r#"concord.toml:2: log.format = "xml": must be "text" or "json""#);
    assert!(
        refused("[log]\nfilter = 'a=b=c'")[0]
            .starts_with("concord.toml:2: log.filter = \"a=b=c\": is not a log")
    );
    for endpoint in ["collector:4317", "ftp://c:1", "http://c:4317/v1/traces", "http://c:4317?k=v"] {
        refused_once(
            &format!("[tracing]\notlp_endpoint = '{endpoint}'"),
            &format!(
                "concord.toml:2: tracing.otlp_endpoint = \"{endpoint}\": must be http://host:port or https://host:port, and \
                 nothing more"
            ),
        );
    }
    // Nor is a password repeated, wherever somebody has put one.
    for table in [
        "[tracing]\notlp_endpoint = 'http://u:s3cret@c:4317'",
        "[participants]\nallow = ['http://u:s3cret@c:4317']",
        "[[service]]\nname = 'a'\naddresses = ['http://u:s3cret@c:4317']",
        "[[service]]\nname = 'a'\naddresses = ['http://u:s3cret@c:4317/api']",
        "[cluster]\naddress = 'u:s3cret@c:4317'",
        "[store]\nurl = 'mysql://u:s3cret@c'",
        "[alert]\nurl = 'ftp://u:s3cret@c'",
        "[[resource]]\nname = 'a'\nurl = 'ftp://u:s3cret@c'",
        "[[resource]]\nname = 'a'\nurl = 'mysql://u@c'\nparticipants = ['http://u:s3cret@c:1']",
    ] {
        let told = refused(table);
        assert!(!told.is_empty() && !told.iter().any(|problem| problem.contains("s3cret")), "{told:?}");
    }
    refused_once(
        "[tracing]\nservice_name = ''",
        "concord.toml:2: tracing.service_name = \"\": must have from 1 to 128 bytes",
    );
    refused_once(
        "[participants]\nallow = ['http://127.0.0.1:*', 'http://*']",
        "concord.toml:2: participants.allow: \"http://*\" is not a pattern such as \"http://10.0.0.7:7101\" or \
         \"https://*.svc.local:*\": `*` stands only as the first label of a host",
    );
    refused_once(
        "[participants]\nallow = [5]",
        "concord.toml:2: participants.allow: must be a list of strings, not a list of other things",
    );
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    refused_once(
        "[transaction]\ntimeout_max_ms = 1000",
        "concord.toml:2: transaction.timeout_default_ms = 30000 is above transaction.timeout_max_ms = 1000",
    );
    refused_once(
        "[phase_two]\nbackoff_first_ms = 2_000\nbackoff_max_ms = 1_000",
        "concord.toml:2: phase_two.backoff_first_ms = 2000 is above phase_two.backoff_max_ms = 1000",
    );
}

#[test]
fn syntax_errors_name_the_line() {
    let problems = refused("[server]\nlisten = \n");
    assert!(problems[0].starts_with("concord.toml:2: "), "{problems:?}");
    assert!(refused("[server]\n[server]\n")[0].starts_with("concord.toml:2: duplicate key"));
    let problems = refused("[[resource]]\nurl = \"mysql://bank:s3cret@db/bank\nname = 'a'\n");
    assert!(problems[0].starts_with("concord.toml:2: ") && !problems[0].contains("s3cret"), "{problems:?}");
}

#[test]
fn every_problem_is_reported_in_the_order_of_the_file() {
    let problems = refused("[sweeper]\ninterval_ms = 1\n[calls]\nx = 1\ntimeout_ms = 0\n[log]\nformat = 1\n");
    let lines: Vec<_> = problems.iter().map(|problem| problem.split(':').nth(1).unwrap()).collect();
    assert_eq!(lines, ["2", "4", "5", "7"]);
}

const BANK: &str = r#"
[[resource]]
name = "bank-a"
url = "mysql://bank:s3cret@127.0.0.1:3306/bank"
participants = ["http://127.0.0.1:7101"]
"#;

#[test]
fn resources() {
    let config = Config::from_toml(BANK, "concord.toml").unwrap();
    assert_eq!(config.resources[0].name, "bank-a");
    assert_eq!(config.resources[0].participants, ["http://127.0.0.1:7101"]);
    assert!(config.resources[0].url.with_password().contains("s3cret"));
    assert!(!format!("{config:?}").contains("s3cret"));

    refused_once(
        "[resource]\nname = 'a'",
        "concord.toml:1: `resource` is a list of tables: write [[resource]]",
    );
    refused_once(
        &format!("{BANK}{}", BANK.replace("7101", "7102")),
        r#"concord.toml:7: resource.name = "bank-a": there is another resource of this name"#,
    );
    refused_once(
        &format!("{BANK}{}", BANK.replace("bank-a", "bank-b")),
        "concord.toml:10: resource.participants: http://127.0.0.1:7101 is a participant of \"bank-a\" and of \
         \"bank-b\"; it can have one resource only",
    );
    refused_once(
        "[[resource]]\nname = 'Bank A'\nurl = 'mysql://u@h/d'",
        "concord.toml:1: resource.name = \"Bank A\": must be from 1 to 64 characters of a-z, 0-9 and -, beginning and \
         ending with none of -",
    );
    assert_eq!(
        refused("[[resource]]\n"),
        [
            "concord.toml:1: resource.name is missing",
            "concord.toml:1: resource.url is missing for the resource \"\""
        ]
    );
    refused_once(
        "[[resource]]\nname = 'a'\nurl = 'postgres://u:s3cret@h/d'",
        "concord.toml:3: resource.url: its scheme must be mysql (for MariaDB too)",
    );
    refused_once(
        "[[resource]]\nname = 'a'\nurl = 'mysql://u@h/d'\nparticipants = ['127.0.0.1:7101']",
        "concord.toml:4: resource.participants: \"127.0.0.1:7101\" is not an address such as \
         \"http://127.0.0.1:7101\": it has no scheme",
    );
}

#[test]
fn services() {
    let stock =
        "[[service]]\nname = 'stock'\naddresses = ['http://10.0.0.1:8080/api', 'https://stock.test/api']\n";
    let loaded = load::load_text(stock, "concord.toml").unwrap();
    assert_eq!(loaded.config.services[0].name, "stock");
    assert_eq!(loaded.config.services[0].addresses, ["http://10.0.0.1:8080/api", "https://stock.test/api"]);
    let shown = loaded.to_toml();
    assert!(shown.contains("[[service]]\nname = \"stock\"  # concord.toml:1\n"), "{shown}");
    assert_eq!(Config::from_toml(&shown, "shown").unwrap(), loaded.config);
    // Its branches live in a database as those of others do.
    let bank = format!("{stock}{}", BANK.replace("http://127.0.0.1:7101", "service://stock"));
    assert_eq!(
        Config::from_toml(&bank, "concord.toml").unwrap().resources[0].participants,
        ["service://stock"]
    );

    refused_once("service = 'stock'", "concord.toml:1: `service` is a list of tables: write [[service]]");
    refused_once(
        &format!("{stock}{stock}"),
        r#"concord.toml:4: service.name = "stock": there is another service of this name"#,
    );
    refused_once(
        "[[service]]\nname = 'Stock'\naddresses = ['http://h:1']",
        "concord.toml:1: service.name = \"Stock\": must be from 1 to 64 characters of a-z, 0-9 and -, beginning and \
         ending with none of -",
    );
    assert_eq!(
        refused("[[service]]\naddress = 'x'"),
        [
            "concord.toml:1: service.name is missing",
            "concord.toml:1: service.addresses is missing",
            "concord.toml:2: unknown key \"address\" in [[service]]; did you mean \"addresses\"?",
        ]
    );
    for (addresses, why) in [
        (
            "'10.0.0.1:7101'",
            "\"10.0.0.1:7101\" is not an address such as \"http://10.0.0.1:7101\": it has no scheme",
        ),
        ("'service://b'", "\"service://b\" is not an address such as \"http://10.0.0.1:7101\": it is a name"),
        (
            "'http://h', 'http://H:80'",
            "\"http://H:80\" is not an address such as \"http://10.0.0.1:7101\": it is there twice",
        ),
        (
            "'http://a:1', 'http://b:1/api', 'http://c:1'",
            "1 of them have a path and are called by POST, and 2 have none and are called by gRPC; a service is called in one \
             way: make two of it",
        ),
    ] {
        refused_once(
            &format!("[[service]]\nname = 'a'\naddresses = [{addresses}]"),
            &format!("concord.toml:3: service.addresses: {why}"),
        );
    }
    refused_once(
        "[[service]]\nname = 'a'\naddresses = 5",
        "concord.toml:3: service.addresses must be a list of strings, not an integer",
    );
    refused_once(
        "[[service]]\nname = 'a'\naddresses = []",
        "concord.toml:3: service.addresses: 0 of them; from 1 to 1000 are allowed",
    );
    refused_once(
        "[participants]\nallow = ['service://stock']",
        "concord.toml:2: participants.allow: \"service://stock\" is called if a [[service]] says where it is; leave it out",
    );
}

#[test]
fn environment_is_above_the_file_and_flags_are_above_both() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("concord.toml");
    std::fs::write(
        &file,
        "[server]\nlisten = '127.0.0.1:1'\n[calls]\ntimeout_ms = 1\nconnect_timeout_ms = 1\n",
    )
    .unwrap();
    let sources = Sources {
        file: Some(file),
        flags: vec![
            flag("--listen", "server.listen", "127.0.0.1:3"),
            flag("--set", "server.listen", "127.0.0.1:4"),
        ],
        ..environment(&[
            ("CONCORD_SERVER_LISTEN", "127.0.0.1:2"),
            ("CONCORD_CALLS_TIMEOUT_MS", "2_000"),
            ("CONCORD_PARTICIPANTS_ALLOW", "http://a.example:*, https://*.b.example:443"),
            ("HOME", "/nowhere"),
        ])
    };
    let config = Config::load(&sources).unwrap().config;
    assert_eq!(config.server.listen.port(), 4);
    assert_eq!((config.calls.timeout_ms, config.calls.connect_timeout_ms), (2_000, 1));
    assert!(config.participants.allow.permits("https://x.b.example"));
    assert!(!config.participants.allow.permits("http://127.0.0.1:7101"));
}

#[test]
fn variables() {
    let problems = |variables: &[(&str, &str)]| -> Vec<String> {
        Config::load(&environment(variables)).unwrap_err().problems().collect()
    };
    assert_eq!(
        problems(&[("CONCORD_SERVER_LISTN", "x")]),
        ["CONCORD_SERVER_LISTN: unknown variable; did you mean CONCORD_SERVER_LISTEN?"]
    );
    assert_eq!(
        problems(&[("CONCORD_LIMITS_BRANCHES_MAX", "many")]),
        ["CONCORD_LIMITS_BRANCHES_MAX: limits.branches_max = \"many\": must be an integer from 1 to 1000"]
    );
    assert!(problems(&[("CONCORD_NONSENSE_OF_SOME_KIND", "")])[0].contains("concord config example"));
    assert_eq!(
        problems(&[("CONCORD_RESOURCE_BANK_PARTICIPANTS", "")]),
        [
            "CONCORD_RESOURCE_BANK_PARTICIPANTS: resource.url is missing for the resource \"bank\": it is neither in the file nor in \
          the environment, where it would be CONCORD_RESOURCE_BANK_URL; a file of variables is named by --environment-file"
        ]
    );

    let passed_over = [
        ("CONCORD_CONFIG", "x"),
        ("CONCORD_ADDRESS", "x"),
        ("CONCORD_OPERATOR", "x"),
        ("CONCORD_TEST_MYSQL_URL", "x"),
        ("CONCORD_MYSQLD", "x"),
        ("CONCORD_MARIADBD_BIN", "x"),
        ("CONCORD_SANDBOX_DIR", "x"),
        ("CONCORD_SERVICE_HOST", "10.0.0.1"),
        ("CONCORD_SERVICE_PORT_GRPC", "7600"),
        ("CONCORD_PORT", "tcp://10.0.0.1:7600"),
        ("CONCORD_PORT_7600_TCP_ADDR", "10.0.0.1"),
        ("CONCORD_ADMIN_SERVICE_HOST", "10.0.0.1"),
    ];
    assert_eq!(Config::load(&environment(&passed_over)).unwrap().config, Config::default());

    let log = environment(&[("CONCORD_LOG", "debug")]);
    assert_eq!(Config::load(&log).unwrap().config.log.filter, "debug");
    let both = environment(&[("CONCORD_LOG_FILTER", "warn"), ("CONCORD_LOG", "debug")]);
    assert_eq!(Config::load(&both).unwrap().config.log.filter, "warn");
}

#[test]
fn a_resource_by_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("concord.toml");
    std::fs::write(&file, BANK).unwrap();
    let sources = Sources {
        file: Some(file),
        ..environment(&[
            ("CONCORD_RESOURCE_BANK_A_URL", "mysql://bank:other@db/bank"),
            ("CONCORD_RESOURCE_BANK_B_URL", "mysql://bank@db/b"),
            ("CONCORD_RESOURCE_BANK_B_PARTICIPANTS", "http://127.0.0.1:7102,http://127.0.0.1:7103"),
        ])
    };
    let config = Config::load(&sources).unwrap().config;
    let names: Vec<_> = config.resources.iter().map(|resource| resource.name.as_str()).collect();
    assert_eq!(names, ["bank-a", "bank-b"]);
    assert_eq!(config.resources[0].url.with_password(), "mysql://bank:other@db/bank");
    assert_eq!(config.resources[0].participants, ["http://127.0.0.1:7101"]);
    assert_eq!(config.resources[1].participants.len(), 2);
}

#[test]
fn flags() {
    let problem =
        |flag| Config::load(&Sources { flags: vec![flag], ..Sources::default() }).unwrap_err().to_string();
    assert_eq!(
        problem(flag("--set", "limits.branch_max", "1")),
        "--set: unknown key \"branch_max\" in [limits]; did you mean \"branches_max\"?"
    );
    assert_eq!(
        problem(flag("--set", "serve.listen", "1")),
        "--set: unknown key \"serve.listen\"; did you mean server.listen?"
    );
    assert!(
        problem(flag("--listen", "server.listen", "")).starts_with("--listen: server.listen = \"\": must be")
    );
}

#[test]
fn a_missing_file_is_an_error() {
    let sources = Sources { file: Some(PathBuf::from("does-not-exist.toml")), ..Sources::default() };
    let error = Config::load(&sources).unwrap_err().to_string();
    assert!(error.starts_with("does-not-exist.toml: cannot be read: "), "{error}");
}

#[test]
fn show_says_where_each_value_came_from_and_hides_passwords() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("concord.toml");
    std::fs::write(&file, format!("[calls]\ntimeout_ms = 5\n{BANK}")).unwrap();
    let sources = Sources {
        file: Some(file),
        flags: vec![flag("--listen", "server.listen", "[::1]:0")],
        ..environment(&[("CONCORD_CALLS_CONNECT_TIMEOUT_MS", "7")])
    };
    let loaded = Config::load(&sources).unwrap();
    let shown = loaded.to_toml().replace(&format!("{}/", dir.path().display()), "");
    assert!(
        shown.starts_with(
            "[server]\nlisten = \"[::1]:0\"             # --listen\ntls_certificate = \"\"           # default\n"
        ),
        "{shown}"
    );
    assert!(shown.contains("\ntimeout_ms = 5          # concord.toml:2\n"), "{shown}");
    assert!(shown.contains("\nconnect_timeout_ms = 7  # CONCORD_CALLS_CONNECT_TIMEOUT_MS\n"), "{shown}");
    assert!(shown.contains("\nopen_ms = 1000            # default\n"), "{shown}");
    assert!(
        shown.contains("\nurl = \"mysql://bank:***@127.0.0.1:3306/bank\"  # concord.toml:6\n"),
        "{shown}"
    );
    assert!(!shown.contains("s3cret"));
    let mut again = Config::from_toml(&shown, "shown").unwrap();
    again.resources[0].url = loaded.config.resources[0].url.clone();
    assert_eq!(again, loaded.config);
}

proptest! {
    /// Whatever the file says, it is read or refused.
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = Config::from_toml(&text, "concord.toml");
    }

    #[test]
    fn nothing_that_looks_like_a_configuration_makes_it_panic(
        lines in proptest::collection::vec(line(), 0..12)
    ) {
        if let Err(error) = Config::from_toml(&lines.join("\n"), "concord.toml") {
            prop_assert!(error.problems().all(|problem| problem.starts_with("concord.toml:")), "{}", error);
        }
    }

    #[test]
    fn no_variable_makes_it_panic(name in "CONCORD_[A-Z_]{0,20}", value in any::<String>()) {
        let _ = Config::load(&environment(&[(&name, &value)]));
    }

    /// What is accepted can be printed and read again.
    #[test]
    fn what_is_shown_reads_back(
        timeout in 1u64..=600_000,
        dir in "[^\0]{1,20}",
        port in any::<u16>(),
    ) {
        let mut config = Config::default();
        config.calls.timeout_ms = timeout;
        config.store.data_dir = PathBuf::from(&dir);
        config.server.listen.set_port(port);
        let flags = vec![
            flag("--set", "calls.timeout_ms", &timeout.to_string()),
            flag("--data-dir", "store.data_dir", &dir),
            flag("--listen", "server.listen", &config.server.listen.to_string()),
        ];
        let loaded = Config::load(&Sources { flags, ..Sources::default() }).unwrap();
        prop_assert_eq!(&loaded.config, &config);
        prop_assert_eq!(Config::from_toml(&loaded.to_toml(), "shown").unwrap(), config);
    }
}

fn line() -> impl Strategy<Value = String> {
    let header = prop_oneof![
        Just("[server]".to_owned()),
        Just("[[resource]]".to_owned()),
        Just("[resource.x]".to_owned()),
        Just("[calls]".to_owned()),
        "\\[{1,2}[a-z.]{0,8}\\]{1,2}",
    ];
    let name = proptest::sample::select(vec![
        "listen",
        "timeout_ms",
        "name",
        "url",
        "participants",
        "x.y",
        "server",
        "é",
    ]);
    let value = prop_oneof![
        "-?[0-9_]{1,25}",
        "0[xob][0-9a-f]{1,40}",
        "'[ -&(-~é]{0,12}'",
        "\\['[a-z:/]{0,9}'(, [0-9])?\\]",
        Just("{ a = 1 }".to_owned()),
        Just("1979-05-27".to_owned()),
        Just("[[[[1]]]]".to_owned()),
        Just("nan".to_owned()),
        Just("'mysql://u:p@h:1/d'".to_owned()),
    ];
    prop_oneof![1 => header, 3 => (name, value).prop_map(|(name, value)| format!("{name} = {value}"))]
}

#[test]
fn a_store_is_a_directory_or_a_database() {
    let store = |url: &str| Config::from_toml(&format!("[store]\nurl = {url:?}"), "concord.toml");
    let config = store("sqlite:/var/lib/concord").unwrap();
    assert_eq!((config.store.url, config.store.data_dir), (None, PathBuf::from("/var/lib/concord")));
    assert_eq!(store("").unwrap(), Config::default());
    for url in ["mysql://c:s3cret@db1:3307/concord", "postgres://c:s3cret@db1/concord"] {
        let loaded =
            Config::load(&Sources { flags: vec![flag("--store", "store.url", url)], ..Sources::default() });
        let loaded = loaded.unwrap();
        assert_eq!(loaded.config.store.url.as_ref().unwrap().with_password(), url);
        let shown = loaded.to_toml();
        assert!(shown.contains(&url.replace("s3cret", "***")), "{shown}");
    }
    for (url, problem) in [
        ("redis://c:s3cret@db1/concord", "its scheme must be sqlite, mysql (for MariaDB too) or postgres"),
        ("mysql://c:s3cret@db1", "it names no database"),
        ("sqlite:", "must be the path of a directory"),
    ] {
        let error = store(url).unwrap_err().to_string();
        assert!(error.contains(problem) && !error.contains("s3cret"), "{error}");
    }
}

#[test]
fn others_reach_a_coordinator_at_a_host_and_a_port() {
    let address = |text: &str| Config::from_toml(&format!("[cluster]\naddress = {text:?}"), "concord.toml");
    for good in ["", "coordinator-1.local:7600", "[::1]:7600", "10.0.0.1:1"] {
        assert_eq!(address(good).unwrap().cluster.address, good);
    }
    for bad in ["coordinator-1", ":7600", "host:0", "host:port", "http://host:7600", "a b:7600"] {
        let error = address(bad).unwrap_err().to_string();
        assert!(error.contains("must be a host and a port"), "{error}");
    }
}

#[test]
fn files_for_tls_and_tokens_come_together() {
    refused_once(
        "[server]\ntls_certificate = 'c'",
        "concord.toml:2: server.tls_certificate needs server.tls_key",
    );
    refused_once("[server]\ntls_key = 'k'", "concord.toml:2: server.tls_key needs server.tls_certificate");
    refused_once(
        "[server]\ntls_client_ca = 'a'",
        "concord.toml:2: server.tls_client_ca needs server.tls_certificate",
    );
    refused_once("[calls]\ntls_key = 'k'", "concord.toml:2: calls.tls_key needs calls.tls_certificate");
    refused_once("[security]\njwks = 'j'", "concord.toml:2: security.jwks needs security.jwt_audience");
    let config = Config::from_toml("server.tls_certificate = 'c'\nserver.tls_key = 'k'", "test").unwrap();
    assert_eq!(config.server.tls_key, Some("k".into()));
}

#[test]
fn yes_and_no() {
    refused_once(
        "[security]\nallow_insecure = 1",
        "concord.toml:2: security.allow_insecure = 1: must be true or false, not an integer",
    );
    let with = |value: &str| Config::load(&environment(&[("CONCORD_SECURITY_ALLOW_INSECURE", value)]));
    assert!(with("true").unwrap().config.security.allow_insecure);
    assert!(!with("false").unwrap().config.security.allow_insecure);
    assert!(with("yes").unwrap_err().to_string().contains("must be true or false"));
}

/// Every file below a directory.
fn files(directory: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    files.flatten().collect()
}

#[test]
fn what_the_handbook_and_deployments_set_is_known() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut places = files(&root.join("deploy"));
    places.extend(["Dockerfile", "README.md", "docs/operations.md"].map(|name| root.join(name)));
    let name = regex::Regex::new("CONCORD_[A-Z_]+[A-Z]").unwrap();
    let mut seen = 0;
    for place in places {
        let text = std::fs::read_to_string(&place).unwrap();
        // Names of resources are put together by the chart.
        for name in name.find_iter(&text).filter(|name| name.as_str() != "CONCORD_RESOURCE") {
            seen += 1;
            let Err(error) = Config::load(&environment(&[(name.as_str(), "x")])) else { continue };
            let unknown = error.problems().find(|problem| problem.contains("unknown variable"));
            assert_eq!(unknown, None, "{}", place.display());
        }
    }
    assert!(seen > 40, "{seen}");
}
