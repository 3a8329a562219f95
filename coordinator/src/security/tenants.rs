//! What each tenant may have, by a file.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::tokens::explain;
use super::{FileError, check_tenant};
use crate::engine::TenantLimits;

/// The key that names the file.
const KEY: &str = "security.tenants";

/// The file, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    tenant: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    live_transactions_max: Option<usize>,
    begins_per_second: Option<u32>,
}

/// The limits by the names of the tenants.
pub(super) fn load(path: &Path) -> Result<Arc<HashMap<String, TenantLimits>>, FileError> {
    let wrong = |why: String| FileError::new(KEY, path, why);
    let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    parse(&text).map(Arc::new).map_err(wrong)
}

fn parse(text: &str) -> Result<HashMap<String, TenantLimits>, String> {
    let file: File = toml::from_str(text).map_err(|error| explain(text, &error))?;
    let mut tenants = HashMap::new();
    for Entry { name, live_transactions_max, begins_per_second } in file.tenant {
        check_tenant(&name)?;
        let limits = TenantLimits { live_transactions_max, begins_per_second };
        if tenants.insert(name.clone(), limits).is_some() {
            return Err(format!("the tenant {name:?} is in it twice"));
        }
    }
    Ok(tenants)
}

/// A tenant whose limits are others than they were.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TenantChange {
    pub(crate) name: String,
    /// Its limits as they were; empty: it was not there.
    pub(crate) from: String,
    /// As they are; empty: it is not there any more.
    pub(crate) to: String,
}

/// In what `now` differs.
pub(crate) fn changes(
    before: &HashMap<String, TenantLimits>,
    now: &HashMap<String, TenantLimits>,
) -> Vec<TenantChange> {
    let names: BTreeSet<_> = before.keys().chain(now.keys()).collect();
    let differs = names.into_iter().filter(|name| before.get(*name) != now.get(*name));
    let change = |name: &String| {
        let [from, to] = [before, now].map(|tenants| tenants.get(name).map(told).unwrap_or_default());
        TenantChange { name: name.clone(), from, to }
    };
    differs.map(change).collect()
}

fn told(limits: &TenantLimits) -> String {
    let TenantLimits { live_transactions_max, begins_per_second } = limits;
    let live = live_transactions_max.map(|limit| format!("live_transactions_max = {limit}"));
    let begins = begins_per_second.map(|limit| format!("begins_per_second = {limit}"));
    match [live, begins].into_iter().flatten().collect::<Vec<_>>() {
        none if none.is_empty() => "no limits".to_owned(),
        limits => limits.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_is_told_with_its_limits() {
        let table = |name: &str, limits: &str| format!("[[tenant]]\nname = '{name}'\n{limits}\n");
        let both = "live_transactions_max = 5\nbegins_per_second = 7";
        let before = [table("shop", both), table("bank", ""), table("same", both)].concat();
        let now = [table("till", ""), table("same", both), table("shop", "begins_per_second = 8")].concat();
        let (before, now) = (parse(&before).unwrap(), parse(&now).unwrap());
        let changes = changes(&before, &now);
        let told: Vec<_> =
            changes.iter().map(|one| (one.name.as_str(), one.from.as_str(), one.to.as_str())).collect();
        assert_eq!(
            told,
            [
                ("bank", "no limits", ""),
                ("shop", "live_transactions_max = 5, begins_per_second = 7", "begins_per_second = 8"),
                ("till", "", "no limits"),
            ]
        );
    }

    #[test]
    fn limits_stand_beside_names() {
        let tenants = "[[tenant]]\nname = 'shop'\nlive_transactions_max = 5\n[[tenant]]\nname = 'bank'\n\
                       begins_per_second = 7\n";
        let tenants = parse(tenants).unwrap();
        let limits = |live_transactions_max, begins_per_second| TenantLimits {
            live_transactions_max,
            begins_per_second,
        };
        assert_eq!(tenants["shop"], limits(Some(5), None));
        assert_eq!(tenants["bank"], limits(None, Some(7)));
        for (text, told) in [
            ("[[tenant]]\nname = 'a/b'\n", "the tenant \"a/b\": must be from 1 to 64 characters"),
            ("[[tenant]]\nname = 'a'\nbegins = 1\n", "unknown field `begins`"),
            ("[[tenant]]\nname = 'a'\nbegins_per_second = -1\n", "invalid value"),
            ("[[tenant]]\nname = 'a'\n[[tenant]]\nname = 'a'\n", "is in it twice"),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains(told), "{why}");
        }
    }
}
