//! Which database product, and which version of it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Product;

/// The two database products that Concord's XA branches run on. Their XA differs in ways that matter, so tests
/// run on both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavor {
    /// Oracle's MySQL, 8.0.29 or newer.
    MySql,
    /// MariaDB, 10.5 or newer.
    MariaDb,
}

impl Flavor {
    /// Both, in the order in which they are shown.
    pub const ALL: [Flavor; 2] = [Flavor::MySql, Flavor::MariaDb];

    /// The oldest version that Concord works with: before MySQL 8.0.29 a prepared branch is not detached from
    /// its session, and before MariaDB 10.5 it is lost when its session ends.
    pub fn oldest_supported(self) -> Version {
        match self {
            Flavor::MySql => Version { major: 8, minor: 0, patch: 29 },
            Flavor::MariaDb => Version { major: 10, minor: 5, patch: 0 },
        }
    }

    /// The lower-case name used in file names, on the command line and in JSON.
    pub fn id(self) -> &'static str {
        Product::from(self).id()
    }
}

impl fmt::Display for Flavor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Product::from(*self).fmt(f)
    }
}

impl FromStr for Flavor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "mysql" => Ok(Flavor::MySql),
            "mariadb" => Ok(Flavor::MariaDb),
            _ => Err(format!("'{text}' is not a database that the sandbox knows: use mysql or mariadb")),
        }
    }
}

/// A server's version number, without the vendor's suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String")]
#[serde(try_from = "String")]
pub struct Version {
    /// 9 in 9.7.4.
    pub major: u32,
    /// 7 in 9.7.4.
    pub minor: u32,
    /// 4 in 9.7.4.
    pub patch: u32,
}

impl Version {
    /// Reads `9.7.4`, `9.7.4-2` or `10.11.18-MariaDB-0+deb12u1`; `None` if there are no three leading numbers.
    pub fn parse(text: &str) -> Option<Version> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let mut parts = text.get(..end)?.split('.').map(str::parse::<u32>);
        let mut next = || parts.next()?.ok();
        Some(Version { major: next()?, minor: next()?, patch: next()? })
    }

    /// Reads the flavour and version out of `mysqld --version`, or out of `SELECT VERSION()` prefixed by `Ver `.
    pub(crate) fn from_banner(banner: &str) -> Option<(Flavor, Version)> {
        let (_, tail) = banner.split_once("Ver ")?;
        let version = Version::parse(tail.trim_start())?;
        let flavor = if banner.contains("MariaDB") { Flavor::MariaDb } else { Flavor::MySql };
        Some((flavor, version))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl From<Version> for String {
    fn from(version: Version) -> String {
        version.to_string()
    }
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Version::parse(&text).ok_or_else(|| format!("'{text}' is not a version number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banners_tell_flavour_and_version() {
        let cases = [
            ("/x/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))", Flavor::MySql, "9.7.4"),
            ("mysqld  Ver 8.0.36-0ubuntu0.22.04.1 for Linux on x86_64", Flavor::MySql, "8.0.36"),
            ("/x/mysqld  Ver 10.11.18-MariaDB-0+deb12u1 for debian-linux-gnu", Flavor::MariaDb, "10.11.18"),
        ];
        for (banner, flavor, version) in cases {
            let (got_flavor, got_version) = Version::from_banner(banner).unwrap();
            assert_eq!(got_flavor, flavor, "{banner}");
            assert_eq!(got_version.to_string(), version, "{banner}");
        }
        assert_eq!(Version::from_banner("bash: no such program"), None);
        assert_eq!(Version::from_banner("x Ver 8.0"), None);
    }

    #[test]
    fn versions_compare_by_number_and_not_by_text() {
        let parse = |text| Version::parse(text).unwrap();
        assert!(parse("10.5.0") > parse("9.7.4"));
        assert!(parse("8.0.4") < Flavor::MySql.oldest_supported());
        assert!(parse("8.0.29") >= Flavor::MySql.oldest_supported());
    }
}
