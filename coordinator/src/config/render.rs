//! Configurations as TOML text, for people.

use std::fmt::Write as _;

use super::Config;
use super::changes::is_live;
use super::keys::{self, Field, Key, RESOURCE, SERVICE};
use super::load::{Loaded, Origin};

impl Loaded {
    /// The configuration in force as TOML, each value with where it came from. Passwords are `***`.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        for section in keys::sections() {
            let lines: Vec<_> = keys::of_section(section)
                .map(|key| {
                    let origin = self.origins.get(&key.path()).unwrap_or(&Origin::Default);
                    (assignment(key.name, &value(key, &self.config)), origin)
                })
                .collect();
            table(&mut out, &format!("[{section}]"), &lines);
        }
        for (service, origins) in self.config.services.iter().zip(&self.service_origins) {
            let lines = [
                (assignment("name", &text(&service.name)), &origins.name),
                (assignment("addresses", &list(&service.addresses)), &origins.addresses),
            ];
            table(&mut out, &format!("[[{SERVICE}]]"), &lines);
        }
        for (resource, origins) in self.config.resources.iter().zip(&self.resource_origins) {
            let lines = [
                (assignment("name", &text(&resource.name)), &origins.name),
                (assignment("url", &text(&resource.url.to_string())), &origins.url),
                (assignment("participants", &list(&resource.participants)), &origins.participants),
            ];
            table(&mut out, &format!("[[{RESOURCE}]]"), &lines);
        }
        out
    }
}

/// Every key with its meaning and its default: a configuration file to start from.
pub fn example() -> String {
    let defaults = Config::default();
    let mut out = String::from(
        "# Every key of the coordinator's configuration, with its default.\n\
         #\n\
         # Read from --config FILE, else from the file that CONCORD_CONFIG names, else from ./concord.toml if there\n\
         # is one. Above the file stands the environment (the key listen of [server] is CONCORD_SERVER_LISTEN; lists\n\
         # have commas between their elements), and above that the command line. It is read again on SIGHUP, and when it\n\
         # or a file that it names has changed.\n",
    );
    for section in keys::sections() {
        let _ = writeln!(out, "\n[{section}]");
        for (i, key) in keys::of_section(section).enumerate() {
            if i > 0 {
                out.push('\n');
            }
            for line in key.doc.lines() {
                let _ = writeln!(out, "# {line}");
            }
            if is_live(key) {
                out.push_str("# Can be changed while the coordinator runs.\n");
            }
            let _ = writeln!(out, "{}", assignment(key.name, &value(key, &defaults)));
        }
    }
    out.push_str(SERVICE_EXAMPLE);
    out.push_str(RESOURCE_EXAMPLE);
    out
}

/// There is no service by default.
const SERVICE_EXAMPLE: &str = r#"
# A participant that runs in several places. Its branches name it service://stock, and the coordinator may call it
# without an entry in participants.allow. One table for each. They can be changed while the coordinator runs.
#
# [[service]]
# # Unique; from 1 to 64 characters of a-z, 0-9 and -.
# name = "stock"
# # Where it is: from 1 to 1000 addresses, either all of them with a path (called by POST) or none. A branch keeps to
# # one of them as long as that answers.
# addresses = ["http://10.0.0.1:7101", "http://10.0.0.2:7101"]
"#;

/// There is no resource by default.
const RESOURCE_EXAMPLE: &str = r#"
# A database that the coordinator may reach itself, to end branches whose participant never comes back. One table
# for each. CONCORD_RESOURCE_BANK_A_URL and CONCORD_RESOURCE_BANK_A_PARTICIPANTS set the same for bank-a.
#
# [[resource]]
# # Unique; from 1 to 64 characters of a-z, 0-9 and -.
# name = "bank-a"
# # MySQL or MariaDB. The account needs XA_RECOVER_ADMIN on MySQL. In a password, write special characters as %XX.
# url = "mysql://concord:password@127.0.0.1:3306/bank"
# # The participants whose branches live in it, as their branches name them.
# participants = ["http://127.0.0.1:7101"]
"#;

fn assignment(name: &str, value: &str) -> String {
    format!("{name} = {value}")
}

pub(super) fn value(key: &Key, config: &Config) -> String {
    match &key.field {
        Field::Integer { get, .. } => get(config).to_string(),
        Field::Boolean { get, .. } => get(config).to_string(),
        Field::Text { get, .. } | Field::Secret { get, .. } => text(&get(config)),
        Field::List { get, .. } => list(&get(config)),
    }
}

fn text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(list: &[String]) -> String {
    format!("[{}]", list.iter().map(|element| text(element)).collect::<Vec<_>>().join(", "))
}

/// Longest assignment whose comment is moved out to the table's column.
const COLUMN_MAX: usize = 60;

fn table(out: &mut String, header: &str, lines: &[(String, &Origin)]) {
    if !out.is_empty() {
        out.push('\n');
    }
    let _ = writeln!(out, "{header}");
    let width =
        lines.iter().map(|(line, _)| line.chars().count()).filter(|w| *w <= COLUMN_MAX).max().unwrap_or(0);
    for (line, origin) in lines {
        let origin = origin.to_string().replace(char::is_control, "?");
        let _ = writeln!(out, "{line:width$}  # {origin}");
    }
}
