//! What a configuration that is read again may change.

use std::path::Path;

use super::keys::{Field, KEYS, Key, RESOURCE, SERVICE};
use super::{Config, Resource, render};

/// The keys that a running coordinator can be given other values for, beside the tables `[[service]]`. All else holds from its
/// start to its end.
pub(super) const LIVE: [&str; 11] = [
    "server.max_connections",
    "limits.branches_max",
    "limits.live_transactions_max",
    "transaction.timeout_default_ms",
    "transaction.timeout_max_ms",
    "calls.timeout_ms",
    "phase_two.backoff_first_ms",
    "phase_two.backoff_max_ms",
    "phase_two.park_after_attempts",
    "participants.allow",
    "log.filter",
];

/// A key with two values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its path: `log.filter`.
    pub key: String,
    /// As it was, without passwords; of `[[resource]]` the names.
    pub from: String,
    /// As it is to be, or, of `[[resource]]`, what is to become of them.
    pub to: String,
    /// Whether that can be without a restart.
    pub live: bool,
}

/// A configuration that was read again.
#[derive(Debug, Clone)]
pub struct Reading {
    /// What is wanted: what was read, or what was read before if that has problems.
    pub config: Config,
    /// What is wrong with what was read.
    pub problems: Option<String>,
}

impl Config {
    /// In what `wanted` differs from this.
    pub fn changes(&self, wanted: &Config) -> Vec<Change> {
        let mut changes: Vec<_> = KEYS.iter().filter_map(|key| self.change(key, wanted)).collect();
        if self.services != wanted.services {
            let told = |config: &Config| {
                let told =
                    config.services.iter().map(|one| format!("{}: {}", one.name, one.addresses.join(", ")));
                told.collect::<Vec<_>>().join("; ")
            };
            let (from, to) = (told(self), told(wanted));
            changes.push(Change { key: format!("[[{SERVICE}]]"), from, to, live: true });
        }
        let to = resources_in(&self.resources, &wanted.resources);
        if !to.is_empty() {
            let names: Vec<_> = self.resources.iter().map(|one| one.name.as_str()).collect();
            changes.push(Change { key: format!("[[{RESOURCE}]]"), from: names.join(", "), to, live: false });
        }
        changes
    }

    fn change(&self, key: &Key, wanted: &Config) -> Option<Change> {
        let (from, mut to) = (render::value(key, self), render::value(key, wanted));
        if from == to {
            match &key.field {
                Field::Secret { secret, .. } if secret(self) != secret(wanted) => {
                    to.push_str(", with another secret");
                }
                _ => return None,
            }
        }
        Some(Change { key: key.path(), from, to, live: is_live(key) })
    }

    /// This, with the values of `wanted` where they can change.
    pub fn adopting(&self, wanted: &Config) -> Config {
        let mut config = Config { services: wanted.services.clone(), ..self.clone() };
        KEYS.iter().filter(|key| is_live(key)).for_each(|key| copy(key, wanted, &mut config));
        config
    }

    /// The files that it names: certificates, keys, tokens.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let Config { server, security, calls, .. } = self;
        [
            &server.tls_certificate,
            &server.tls_key,
            &server.tls_client_ca,
            &security.tokens,
            &security.tenants,
            &security.jwks,
            &calls.tls_ca,
            &calls.tls_certificate,
            &calls.tls_key,
        ]
        .into_iter()
        .flatten()
        .map(|path| path.as_path())
    }
}

/// Which resources were added, removed or changed, by their names: all else may be secret. Empty: none.
fn resources_in(before: &[Resource], now: &[Resource]) -> String {
    let in_before = |one: &Resource| before.iter().find(|other| other.name == one.name);
    let in_now = |one: &Resource| now.iter().any(|other| other.name == one.name);
    let parts: [(&str, Vec<&Resource>); 3] = [
        ("added", now.iter().filter(|one| in_before(one).is_none()).collect()),
        ("changed", now.iter().filter(|one| in_before(one).is_some_and(|before| before != *one)).collect()),
        ("removed", before.iter().filter(|one| !in_now(one)).collect()),
    ];
    let names = |all: &[&Resource]| all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ");
    let parts = parts.iter().filter(|(_, all)| !all.is_empty());
    parts.map(|(what, all)| format!("{what}: {}", names(all))).collect::<Vec<_>>().join("; ")
}

pub(super) fn is_live(key: &Key) -> bool {
    LIVE.contains(&key.path().as_str())
}

fn copy(key: &Key, from: &Config, to: &mut Config) {
    // What stands in a configuration is a value that its key takes.
    let _ = match &key.field {
        Field::Integer { get, set, .. } => {
            set(to, get(from));
            Ok(())
        }
        Field::Boolean { get, set } => {
            set(to, get(from));
            Ok(())
        }
        Field::Text { get, set } => set(to, &get(from)),
        Field::List { get, set } => set(to, &get(from)),
        // Shown without its password, it cannot be copied.
        Field::Secret { .. } => Ok(()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_change_does_and_the_rest_is_named() {
        for path in LIVE {
            let key = KEYS.iter().find(|key| key.path() == path).unwrap_or_else(|| panic!("{path}"));
            assert!(!matches!(key.field, Field::Secret { .. }), "{path} could not be copied");
        }
        let running = Config::default();
        let wanted = "server.listen = '127.0.0.1:1'\n\
                      log.filter = 'debug'\n\
                      participants.allow = ['attached://shop']\n\
                      limits.branches_max = 7\n\
                      limits.page_size_max = 70\n\
                      [[service]]\nname = 'stock'\naddresses = ['http://10.0.0.1:7101', 'http://10.0.0.2:7101']\n\
                      [[resource]]\nname = 'bank'\nurl = 'mysql://ann:s3cret@127.0.0.1:3306/bank'\n";
        let wanted = Config::from_toml(wanted, "test").unwrap();
        let changes = running.changes(&wanted);
        let told: Vec<_> = changes.iter().map(|change| (change.key.as_str(), change.live)).collect();
        assert_eq!(
            told,
            [
                ("server.listen", false),
                ("limits.branches_max", true),
                ("limits.page_size_max", false),
                ("participants.allow", true),
                ("log.filter", true),
                ("[[service]]", true),
                ("[[resource]]", false),
            ]
        );
        assert_eq!((changes[1].from.as_str(), changes[1].to.as_str()), ("1000", "7"));
        assert_eq!(
            (changes[5].from.as_str(), changes[5].to.as_str()),
            ("", "stock: http://10.0.0.1:7101, http://10.0.0.2:7101")
        );
        let now = running.adopting(&wanted);
        assert_eq!(now.services, wanted.services);
        assert_eq!((now.limits.branches_max, now.log.filter.as_str()), (7, "debug"));
        assert!(now.participants.allow.permits("attached://shop"));
        assert_eq!((now.server, now.resources.len()), (running.server.clone(), 0));
        assert_eq!(now.limits.page_size_max, running.limits.page_size_max);
        assert!(running.changes(&running.adopting(&running)).is_empty());
    }

    #[test]
    fn what_is_secret_is_compared_and_not_shown() {
        let config = |store: &str, alert: &str, resources: &[(&str, &str)]| {
            let tables = resources.iter().map(|(name, password)| {
                format!("[[resource]]\nname = '{name}'\nurl = 'mysql://ann:{password}@127.0.0.1:3306/bank'\n")
            });
            let text = format!(
                "store.url = 'mysql://ann:{store}@127.0.0.1:3306/c'\nalert.url = 'https://alerts.local/{alert}'\n{}",
                tables.collect::<String>()
            );
            Config::from_toml(&text, "test").unwrap()
        };
        let before =
            config("s3cret1", "s3cret2", &[("bank", "s3cret3"), ("shop", "s3cret4"), ("till", "s3cret5")]);
        let now =
            config("s3cret6", "s3cret7", &[("till", "s3cret5"), ("shop", "s3cret8"), ("depot", "s3cret9")]);
        let told: Vec<_> = before
            .changes(&now)
            .into_iter()
            .map(|Change { key, from, to, live }| format!("{key} {from} {to} {live}"))
            .collect();
        assert_eq!(
            told,
            [
                "store.url \"mysql://ann:***@127.0.0.1:3306/c\" \"mysql://ann:***@127.0.0.1:3306/c\", with another secret false",
                "alert.url \"https://alerts.local/***\" \"https://alerts.local/***\", with another secret false",
                "[[resource]] bank, shop, till added: depot; changed: shop; removed: bank false",
            ]
        );
        let in_another_order =
            config("s3cret1", "s3cret2", &[("till", "s3cret5"), ("bank", "s3cret3"), ("shop", "s3cret4")]);
        assert_eq!(before.changes(&in_another_order), []);
    }
}
