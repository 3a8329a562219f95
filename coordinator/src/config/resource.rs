//! Databases that the coordinator may reach itself.

use std::fmt;

/// `[[resource]]`: a database whose in-doubt branches the sweeper may end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Unique; from 1 to 64 characters of `a-z`, `0-9`, `-`.
    pub name: String,
    /// Where it is and how to log in.
    pub url: DatabaseUrl,
    /// The participants whose branches live in this database, each in the form that its branches carry, e.g.
    /// `http://127.0.0.1:7101`. A participant belongs to one resource at most.
    pub participants: Vec<String>,
}

/// `mysql://user:password@host:port/database`. Its password is printed nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(url::Url);

impl DatabaseUrl {
    /// Reads the URL of a MySQL or MariaDB database.
    ///
    /// # Errors
    /// What is missing or wrong; the text never holds the URL, for the sake of the password in it.
    pub fn parse(text: &str) -> Result<Self, DatabaseUrlError> {
        Self::of_schemes(text, &["mysql"], DatabaseUrlError::Scheme)
    }

    /// Reads the URL of a database that coordinators can share: MySQL, MariaDB or PostgreSQL.
    ///
    /// # Errors
    /// As [`DatabaseUrl::parse`].
    pub fn parse_shared(text: &str) -> Result<Self, DatabaseUrlError> {
        let url = Self::of_schemes(text, &["mysql", "postgres"], DatabaseUrlError::SharedScheme)?;
        match url.0.path().trim_matches('/') {
            "" => Err(DatabaseUrlError::Missing("database")),
            _ => Ok(url),
        }
    }

    fn of_schemes(text: &str, schemes: &[&str], other: DatabaseUrlError) -> Result<Self, DatabaseUrlError> {
        let url = url::Url::parse(text).map_err(|error| DatabaseUrlError::Syntax(error.to_string()))?;
        if !schemes.contains(&url.scheme()) {
            return Err(other);
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(DatabaseUrlError::Missing("host"));
        }
        if url.username().is_empty() {
            return Err(DatabaseUrlError::Missing("user"));
        }
        if url.fragment().is_some() {
            return Err(DatabaseUrlError::Fragment);
        }
        Ok(DatabaseUrl(url))
    }

    /// The whole URL, **with its password**: for the database driver only.
    pub fn with_password(&self) -> &str {
        self.0.as_str()
    }

    /// Host, port and database, as in `db1.example:3306/bank`; neither user nor password.
    pub fn address(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        let port = self.0.port().unwrap_or(if self.0.scheme() == "postgres" { 5432 } else { 3306 });
        let database = self.0.path().trim_end_matches('/');
        format!("{host}:{port}{database}")
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.clone();
        if url.password().is_some() && url.set_password(Some("***")).is_err() {
            return write!(f, "{}://***", self.0.scheme());
        }
        // PostgreSQL's driver takes it there too.
        let is_secret = |key: &str| key.to_ascii_lowercase().contains("password");
        if self.0.query_pairs().any(|(key, _)| is_secret(&key)) {
            let pairs = self.0.query_pairs();
            let shown =
                pairs.map(|(key, value)| if is_secret(&key) { (key, "***".into()) } else { (key, value) });
            url.query_pairs_mut().clear().extend_pairs(shown);
        }
        f.write_str(url.as_str())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

/// Why a database's URL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseUrlError {
    /// Not a URL.
    #[error("it is not a URL of the form mysql://user:password@host:port/database ({0})")]
    Syntax(String),
    /// Another kind of database, or a mistake.
    #[error("its scheme must be mysql (for MariaDB too)")]
    Scheme,
    /// The same, of a store.
    #[error("its scheme must be sqlite, mysql (for MariaDB too) or postgres")]
    SharedScheme,
    /// A part that is needed.
    #[error("it names no {0}; the form is mysql://user:password@host:port/database")]
    Missing(&'static str),
    /// `#…`, which is most often a `#` of the password.
    #[error("it has a `#`; inside a password, write %23")]
    Fragment,
}

/// What is wrong with the name of a resource or a tenant, if anything is.
pub(crate) fn name_problem(name: &str) -> Option<&'static str> {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let edges = name.starts_with('-') || name.ends_with('-');
    (!plain || edges || !(1..=64).contains(&name.len()))
        .then_some("must be from 1 to 64 characters of a-z, 0-9 and -, beginning and ending with none of -")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_not_printed() {
        let url =
            DatabaseUrl::parse("mysql://bank:s3cret@db1.example:3307/bank?prefer_socket=false").unwrap();
        for printed in [format!("{url}"), format!("{url:?}"), format!("{url:#?}"), url.address()] {
            assert!(!printed.contains("s3cret"), "{printed}");
        }
        assert_eq!(url.to_string(), "mysql://bank:***@db1.example:3307/bank?prefer_socket=false");
        assert_eq!(url.address(), "db1.example:3307/bank");
        assert!(url.with_password().contains("s3cret"));
        let shared = DatabaseUrl::parse_shared("postgres://u@h/d?password=s3cret&sslmode=require").unwrap();
        assert_eq!(shared.to_string(), "postgres://u@h/d?password=***&sslmode=require");
        let bare = DatabaseUrl::parse("mysql://root@[::1]").unwrap();
        assert_eq!(
            (bare.to_string().as_str(), bare.address().as_str()),
            ("mysql://root@[::1]", "[::1]:3306")
        );
    }

    #[test]
    fn errors_do_not_hold_the_url() {
        for text in [
            "s3cret",
            "postgres://u:s3cret@h/d",
            "mysql://u:s3cret@/d",
            "mysql://u:s3cret@h:99999/",
            "mysql://u:s3cret",
        ] {
            let error = DatabaseUrl::parse(text).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
        assert_eq!(DatabaseUrl::parse("mysql://h/d"), Err(DatabaseUrlError::Missing("user")));
        assert_eq!(
            DatabaseUrl::parse("mysql://u:p#w@h/d"),
            Err(DatabaseUrlError::Syntax("invalid port number".into()))
        );
    }
}
