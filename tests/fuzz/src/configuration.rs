//! The configuration: file, environment and flags.

use bolero::{TypeGenerator, check};
use concord_coordinator::config::{AllowList, Config, DatabaseUrl, Flag, FlagValue, Sources, example};

use crate::damage::Damage;

/// Stands in every password here, and must stand in nothing that is printed.
const SECRET: &str = "s3cr3t-w0rd";

#[derive(Debug, Clone, TypeGenerator)]
struct Setting {
    /// Which of the known keys.
    key: u8,
    value: Value,
}

#[derive(Debug, Clone, TypeGenerator)]
enum Value {
    Number(i64),
    Small(u8),
    Text(String),
    List(Vec<String>),
    Address([u8; 4], u16),
    Pattern(u8, u16),
    Raw(String),
}

impl Value {
    /// As it stands in TOML.
    fn toml(&self) -> String {
        match self {
            Value::Number(number) => number.to_string(),
            Value::Small(number) => number.to_string(),
            Value::Text(text) => quoted(text),
            Value::List(list) => {
                format!("[{}]", list.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "))
            }
            Value::Address([a, b, c, d], port) => format!("\"{a}.{b}.{c}.{d}:{port}\""),
            Value::Pattern(..) => format!("[{}]", quoted(&self.plain())),
            Value::Raw(raw) => raw.clone(),
        }
    }

    /// As it stands in the environment and in flags.
    fn plain(&self) -> String {
        match self {
            Value::Text(text) | Value::Raw(text) => text.clone(),
            Value::List(list) => list.join(","),
            Value::Pattern(kind, 0..20_000) => format!("http://10.0.0.{kind}:80"),
            Value::Pattern(kind, port) => match kind % 5 {
                0 => format!("http://10.0.0.{kind}:{port}"),
                1 => format!("https://*.svc.local:{port}"),
                2 => format!("http://[::{kind:x}]:*"),
                3 => format!("HTTP://Host-{kind}.Example.:{port}"),
                _ => format!("http://*:{port}"),
            },
            Value::Number(_) | Value::Small(_) | Value::Address(..) => self.toml().replace('"', ""),
        }
    }
}

fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|letter| match letter {
        '"' | '\\' => format!("\\{letter}"),
        letter if letter.is_control() => format!("\\U{:08X}", u32::from(letter)),
        letter => letter.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// Sections and names, as the example has them.
fn keys() -> Vec<(String, String)> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in example().lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((name, _)) = line.split_once(" = ").filter(|(name, _)| !name.starts_with('#')) {
            keys.push((section.clone(), name.to_owned()));
        }
    }
    assert!(keys.len() > 20, "{keys:?}");
    keys
}

/// What is wrong is told in lines that begin with where it is, not endless, and without passwords.
fn assert_readable(problems: impl Iterator<Item = String>) {
    let problems: Vec<String> = problems.collect();
    assert!(!problems.is_empty());
    for problem in problems {
        assert!(!problem.contains(SECRET), "{problem}");
        assert!(problem.len() < 4_000, "{} bytes: {problem}", problem.len());
    }
}

fn assert_sound(text: &str) {
    match Config::from_toml(text, "concord.toml") {
        Ok(config) => {
            let limits = &config.limits;
            assert!((1..=64 << 20).contains(&limits.payload_bytes_max));
            assert!((1..=1_000).contains(&limits.branches_max));
            assert!(limits.page_size_default <= limits.page_size_max && limits.page_size_max <= 1_000);
            assert!(config.transaction.timeout_default_ms <= config.transaction.timeout_max_ms);
            assert!(config.phase_two.backoff_first_ms <= config.phase_two.backoff_max_ms);
            assert!(config.transaction.timeout_default_ms > 0 && config.calls.timeout_ms > 0);
            assert!(!format!("{config:?}").contains(SECRET));
        }
        Err(error) => assert_readable(error.problems()),
    }
}

/// A file is read and within its limits, or refused; and what is shown of it is a configuration again: the same.
#[test]
fn a_file_is_read_or_refused() {
    let keys = keys();
    check!().with_type::<(Vec<Setting>, Damage)>().for_each(|(settings, damage)| {
        let lines = settings.iter().map(|one| {
            let (section, name) = &keys[usize::from(one.key) % keys.len()];
            format!("{section}.{name} = {}\n", one.value.toml())
        });
        let text = damage.apply(lines.collect::<String>().into_bytes());
        let text = String::from_utf8_lossy(&text);
        assert_sound(&text);
        let Ok(config) = Config::from_toml(&text, "concord.toml") else { return };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text.as_bytes()).unwrap();
        let loaded = Config::load(&Sources { file: Some(file.path().into()), ..Sources::default() }).unwrap();
        assert_eq!(loaded.config, config);
        assert_eq!(Config::from_toml(&loaded.to_toml(), "shown").unwrap(), config);
    });
}

/// With a password in a URL: nothing that is said about the configuration repeats it.
#[test]
fn passwords_are_not_repeated() {
    check!().with_type::<(String, String, Damage, Vec<String>)>().for_each(|(user, rest, damage, names)| {
        let url = format!("mysql://{user}:{SECRET}{rest}");
        if let Ok(url) = DatabaseUrl::parse(&url) {
            // Where an @ of the user's name makes the password the host's name, it is a password no more.
            let printed = format!("{url} {url:?} {}", url.address());
            let is_password = !user.contains(['@', '/', '?', '#']) && rest.starts_with('@');
            assert!(!is_password || !printed.contains(SECRET), "{printed}");
        }
        let name = names.first().map_or("bank-a", String::as_str);
        let text = format!(
            "[[resource]]\nname = {}\nurl = {}\nparticipants = [{}]\n",
            quoted(name),
            quoted(&format!("mysql://bank:{SECRET}@127.0.0.1:3306/bank{}", rest.replace(['#', '?'], ""))),
            names.iter().skip(1).map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
        );
        assert_sound(&text);
        let damaged = damage.apply(text.into_bytes());
        // What is read may have lost its URL to the damage; what is refused must not be shown.
        if let Err(error) = Config::from_toml(&String::from_utf8_lossy(&damaged), "concord.toml") {
            assert_readable(error.problems());
        }
    });
}

#[test]
fn environment_and_flags_are_read_or_refused() {
    let keys = keys();
    let of = |one: &Setting| keys[usize::from(one.key) % keys.len()].clone();
    check!().with_type::<(Vec<Setting>, Vec<Setting>, Vec<(String, String)>)>().for_each(
        |(variables, flags, others)| {
            let mut environment: Vec<(String, String)> = others.clone();
            environment.extend(variables.iter().map(|one| {
                let (section, name) = of(one);
                (format!("CONCORD_{section}_{name}").to_ascii_uppercase(), one.value.plain())
            }));
            let flags = flags.iter().map(|one| {
                let (section, name) = of(one);
                let value = match &one.value {
                    Value::List(list) => FlagValue::Many(list.clone()),
                    value => FlagValue::One(value.plain()),
                };
                Flag { flag: format!("--{name}"), key: format!("{section}.{name}"), value }
            });
            let sources = Sources { file: None, environment, flags: flags.collect() };
            match Config::load(&sources) {
                Ok(loaded) => {
                    assert_eq!(Config::from_toml(&loaded.to_toml(), "shown").unwrap(), loaded.config);
                }
                Err(error) => assert_readable(error.problems()),
            }
        },
    );
}

/// A pattern without stars permits itself; the list is what it was given; addresses that are none are refused.
#[test]
fn an_allow_list_permits_what_it_says() {
    check!().with_type::<(Vec<Value>, Vec<String>, String)>().for_each(|(patterns, noise, address)| {
        let patterns: Vec<String> = patterns.iter().map(Value::plain).chain(noise.iter().cloned()).collect();
        let Ok(list) = AllowList::parse(&patterns) else { return };
        for pattern in &patterns {
            if !pattern.contains('*') {
                assert!(list.permits(pattern), "{pattern}");
            }
        }
        assert_eq!(AllowList::parse(list.patterns()).as_ref(), Ok(&list));
        // Only addresses with a scheme, a host and a port are ever called.
        if list.permits(address) {
            assert!(address.to_ascii_lowercase().starts_with("http"), "{address}");
        }
    });
}
