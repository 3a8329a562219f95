//! All kinds of servers that the sandbox can fetch and start.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Flavor, Version};

/// A database product. Those with XA, on which branches run, are also a [`Flavor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Product {
    /// Oracle's MySQL: a [`Server`](crate::Server).
    MySql,
    /// MariaDB: a [`Server`](crate::Server).
    MariaDb,
    /// PostgreSQL: a [`Postgres`](crate::Postgres).
    Postgres,
}

impl Product {
    /// All, in the order in which they are shown.
    pub const ALL: [Product; 3] = [Product::MySql, Product::MariaDb, Product::Postgres];

    /// The same product as one with XA; `None` for PostgreSQL.
    pub fn flavor(self) -> Option<Flavor> {
        match self {
            Product::MySql => Some(Flavor::MySql),
            Product::MariaDb => Some(Flavor::MariaDb),
            Product::Postgres => None,
        }
    }

    /// The lower-case name used in file names, on the command line and in JSON.
    pub fn id(self) -> &'static str {
        match self {
            Product::MySql => "mysql",
            Product::MariaDb => "mariadb",
            Product::Postgres => "postgres",
        }
    }

    /// A version as the product's makers write it: PostgreSQL's have two numbers.
    pub fn release(self, version: Version) -> String {
        match self {
            Product::MySql | Product::MariaDb => version.to_string(),
            Product::Postgres => format!("{}.{}", version.major, version.minor),
        }
    }
}

impl From<Flavor> for Product {
    fn from(flavor: Flavor) -> Product {
        match flavor {
            Flavor::MySql => Product::MySql,
            Flavor::MariaDb => Product::MariaDb,
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Product::MySql => "MySQL",
            Product::MariaDb => "MariaDB",
            Product::Postgres => "PostgreSQL",
        })
    }
}

impl FromStr for Product {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Product::ALL.into_iter().find(|product| product.id().eq_ignore_ascii_case(text));
        known.ok_or_else(|| {
            format!("'{text}' is not a database that the sandbox knows: use mysql, mariadb or postgres")
        })
    }
}
