//! What each tenant may have, by a file.

use std::collections::HashMap;
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

#[cfg(test)]
mod tests {
    use super::*;

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
