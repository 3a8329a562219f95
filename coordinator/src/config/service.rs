//! Participants that are called by a name.

/// `[[service]]`: a participant that runs in several places. Branches name it `service://NAME`, which permits to call it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// Unique; from 1 to 64 characters of `a-z`, `0-9`, `-`.
    pub name: String,
    /// Where it is: from 1 to 1,000 addresses, all of the form `http(s)://host:port` or all of the form
    /// `http(s)://host:port/path`.
    pub addresses: Vec<String>,
}
