//! The environment: `CONCORD_<SECTION>_<KEY>`, and for resources `CONCORD_RESOURCE_<NAME>_URL` and
//! `CONCORD_RESOURCE_<NAME>_PARTICIPANTS`. Elements of a list are separated by commas.

use super::keys::{KEYS, Key};
use super::load::{Draft, Origin, Raw};
use super::nearest::nearest;

/// What every variable of Concord begins with.
const PREFIX: &str = "CONCORD_";

/// Variables that are no keys of the configuration, with who reads them.
const OTHERS: [(&str, &str); 10] = [
    ("CONCORD_CONFIG", "where the configuration file is"),
    ("CONCORD_ADDRESS", "where the client commands find the coordinator"),
    ("CONCORD_TOKEN", "the token that the client commands show"),
    ("CONCORD_TOKEN_FILE", "where that token is"),
    ("CONCORD_CA", "whom the client commands trust"),
    ("CONCORD_CERTIFICATE", "the certificate that the client commands show"),
    ("CONCORD_KEY", "its key"),
    ("CONCORD_ALLOW_INSECURE", "whether they show the token without TLS, too"),
    ("CONCORD_OPERATOR", "who gives an order, for the history"),
    ("CONCORD_LOG", "short for CONCORD_LOG_FILTER"),
];

/// Beginnings of variables that belong to tests and to the database sandbox.
const OTHER_PREFIXES: [&str; 4] = ["CONCORD_TEST_", "CONCORD_MYSQLD", "CONCORD_MARIADBD", "CONCORD_SANDBOX"];

/// Reads those of `variables` that begin with `CONCORD_` into `draft`.
pub(super) fn read(variables: &[(String, String)], draft: &mut Draft) {
    let mut ours: Vec<_> = variables.iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    // CONCORD_LOG comes before CONCORD_LOG_FILTER, which is the more precise one and wins.
    ours.sort();
    for (name, value) in ours {
        read_one(name, value, draft);
    }
}

fn read_one(name: &str, value: &str, draft: &mut Draft) {
    let origin = Origin::Variable(name.to_owned());
    let short = if name == "CONCORD_LOG" { "CONCORD_LOG_FILTER" } else { name };
    if let Some(key) = KEYS.iter().find(|key| key.variable() == short) {
        draft.set(key, Raw::Written(value.to_owned()), origin);
    } else if let Some((resource, url)) = resource_variable(name) {
        let mut resource = draft.take_resource(&resource, &origin);
        if url {
            resource.set_url(value, origin.clone(), draft);
        } else {
            resource.set_participants(split_list(value), origin.clone(), draft);
        }
        draft.add_resource(resource, origin);
    } else if !is_known_otherwise(name) {
        draft.problem(origin, unknown(name));
    }
}

/// `CONCORD_RESOURCE_BANK_A_URL` is the URL of the resource `bank-a`.
fn resource_variable(name: &str) -> Option<(String, bool)> {
    let rest = name.strip_prefix("CONCORD_RESOURCE_")?;
    let (resource, url) = match (rest.strip_suffix("_URL"), rest.strip_suffix("_PARTICIPANTS")) {
        (Some(resource), _) => (resource, true),
        (None, Some(resource)) => (resource, false),
        (None, None) => return None,
    };
    Some((resource.to_ascii_lowercase().replace('_', "-"), url))
}

/// The variable of a resource's URL.
pub(super) fn url_variable(resource: &str) -> String {
    format!("CONCORD_RESOURCE_{}_URL", resource.to_ascii_uppercase().replace('-', "_"))
}

fn is_known_otherwise(name: &str) -> bool {
    OTHERS.iter().any(|(other, _)| *other == name)
        || OTHER_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || is_of_kubernetes(name)
}

/// Kubernetes sets `CONCORD_SERVICE_HOST`, `CONCORD_PORT`, `CONCORD_PORT_7600_TCP_ADDR` and the like in every
/// pod when a service is called `concord` (or `concord-…`). They say nothing to us.
fn is_of_kubernetes(name: &str) -> bool {
    let word = format!("{name}_");
    ["_SERVICE_HOST_", "_SERVICE_PORT_", "_PORT_"].iter().any(|part| word.contains(part))
}

fn unknown(name: &str) -> String {
    let keys: Vec<String> = KEYS.iter().map(Key::variable).collect();
    let known = keys.iter().map(String::as_str).chain(OTHERS.map(|(other, _)| other));
    match nearest(name, known) {
        Some(known) => format!("unknown variable; did you mean {known}?"),
        None => "unknown variable; `concord config example` names all keys, and a variable is CONCORD_, the table \
                 and the key, e.g. CONCORD_SERVER_LISTEN"
            .to_owned(),
    }
}

/// Elements between commas; an empty text has none.
pub(super) fn split_list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|element| !element.is_empty()).map(str::to_owned).collect()
}
