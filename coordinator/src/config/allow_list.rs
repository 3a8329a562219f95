//! The addresses that the coordinator may call.
//!
//! A participant's address comes from the network, so it is read by a grammar of its own, stricter than that
//! of URLs: `http` or `https`, a host, perhaps a port, perhaps a path, and nothing else. What this grammar cannot read is
//! refused, so it does not matter whether the HTTP client would read it in another way. Who has a path is called by POST with
//! JSON, who has none by gRPC (decision 012). A participant that does not listen, and is called on the stream that it has
//! opened, is `attached` and a name; one of which the configuration says where it is, `service` and a name.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::error::quoted;

/// The longest address that is considered at all, in bytes.
const ADDRESS_BYTES_MAX: usize = 256;
/// The longest DNS name, in bytes (RFC 1035).
const NAME_BYTES_MAX: usize = 253;
/// The longest label of a DNS name, in bytes (RFC 1035).
const LABEL_BYTES_MAX: usize = 63;

/// Which participants' addresses may be called.
///
/// A pattern is `scheme://host:port`, `scheme://host:port/path`, `attached://name`, or `service://name`. The port may be `*`, for any; a host name may begin with
/// the label `*`, for one or more labels: `https://*.svc.local:7101` permits `https://pay.shop.svc.local:7101` and not
/// `https://svc.local:7101`. `attached://*` is any participant that does not listen, `service://*` any service that the configuration names. Names and schemes are compared
/// without regard to case, IP addresses by value. A name never matches an IP address: nothing is resolved. A pattern permits
/// addresses with a path only if it has one itself; a path that ends with `/*` is any below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowList(Vec<Pattern>);

impl AllowList {
    /// Reads patterns.
    ///
    /// # Errors
    /// The first pattern that is not of the form above.
    pub fn parse<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, PatternError> {
        patterns
            .into_iter()
            .map(|pattern| Pattern::parse(pattern.as_ref()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether the coordinator may call `address`. False for whatever is not a plain
    /// `http(s)://host[:port][/path]`, `attached://name` or `service://name` of at most 256 bytes. A missing port is the scheme's: 80 or 443.
    pub fn permits(&self, address: &str) -> bool {
        Address::parse(address).is_ok_and(|address| self.0.iter().any(|pattern| pattern.matches(&address)))
    }

    /// Whether a participant of this address does not listen, and can be called only where it is attached.
    pub fn is_attached_only(address: &str) -> bool {
        Scheme::split(address).is_ok_and(|(scheme, _)| scheme == Scheme::Attached)
    }

    /// The name of the service of which the configuration is to say where it is; `None`: the address itself says it.
    pub fn service(address: &str) -> Option<&str> {
        match Scheme::split(address) {
            Ok((Scheme::Service, name)) => Some(name),
            _ => None,
        }
    }

    /// Whether a participant of this address is called by POST with JSON.
    pub fn is_http_service(address: &str) -> bool {
        Address::parse(address).is_ok_and(|address| address.is_by_post())
    }

    /// The patterns as they were written.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|pattern| pattern.written.as_str())
    }
}

impl Default for AllowList {
    /// Any port of this machine, without TLS, and any participant that does not listen.
    fn default() -> Self {
        let local = [
            (Host::V4(Ipv4Addr::LOCALHOST), "http://127.0.0.1:*"),
            (Host::Name("localhost".to_owned()), "http://localhost:*"),
            (Host::V6(Ipv6Addr::LOCALHOST), "http://[::1]:*"),
        ];
        let pattern = |(host, written): (Host, &str)| Pattern {
            scheme: Scheme::Http,
            host: HostPattern::Exactly(host),
            port: None,
            path: PathPattern::Exactly(String::new()),
            written: written.to_owned(),
        };
        let attached = Pattern {
            scheme: Scheme::Attached,
            host: HostPattern::Any,
            port: None,
            path: PathPattern::Exactly(String::new()),
            written: "attached://*".to_owned(),
        };
        AllowList(local.map(pattern).into_iter().chain([attached]).collect())
    }
}

/// A pattern that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not a pattern such as \"http://10.0.0.7:7101\" or \"https://*.svc.local:*\": {why}", quoted(.pattern))]
pub struct PatternError {
    /// As it was written.
    pub pattern: String,
    /// What is wrong with it.
    pub why: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    scheme: Scheme,
    host: HostPattern,
    /// None: any.
    port: Option<u16>,
    path: PathPattern,
    written: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum PathPattern {
    /// Empty: none.
    Exactly(String),
    /// A path that begins with this, its last slash included, and goes on.
    Below(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    Exactly(Host),
    /// Whatever the name.
    Any,
    /// A name that ends with this, its leading dot included, and has something before it.
    EndsWith(String),
}

impl Pattern {
    fn parse(written: &str) -> Result<Self, PatternError> {
        Self::read(written).map_err(|why| PatternError { pattern: written.to_owned(), why })
    }

    fn read(written: &str) -> Result<Self, &'static str> {
        if written.len() > ADDRESS_BYTES_MAX {
            return Err("it is longer than 256 bytes");
        }
        let (scheme, rest) = Scheme::split(written)?;
        let (authority, path) = split_path(rest);
        let (host, port) = split_port(authority)?;
        let path = match path.strip_suffix('*') {
            Some(above) if above == "/" || above.strip_suffix('/').is_some_and(is_path) => {
                PathPattern::Below(above.to_owned())
            }
            _ => PathPattern::Exactly(parse_path(scheme, path)?),
        };
        let host = match host.strip_prefix("*.") {
            Some(suffix) => match Host::parse(suffix)? {
                Host::Name(name) => HostPattern::EndsWith(format!(".{name}")),
                Host::V4(_) | Host::V6(_) => return Err("an IP address has no leading label"),
            },
            None if host == "*" && scheme.is_name() => HostPattern::Any,
            None if host.contains('*') => return Err("`*` stands only as the first label of a host"),
            None => HostPattern::Exactly(Host::parse(host)?),
        };
        let port = match (scheme, port) {
            (scheme, _) if scheme.is_name() && path != PathPattern::Exactly(String::new()) => {
                return Err(NO_PORT);
            }
            (scheme, None) if scheme.is_name() => None,
            (scheme, Some(_)) if scheme.is_name() => return Err(NO_PORT),
            (_, port) => match port.ok_or("it names no port; `:*` is any port")? {
                "*" => None,
                digits => Some(parse_port(digits)?),
            },
        };
        Ok(Pattern { scheme, host, port, path, written: written.to_owned() })
    }

    fn matches(&self, address: &Address) -> bool {
        let host = match (&self.host, &address.host) {
            (HostPattern::Exactly(allowed), host) => allowed == host,
            (HostPattern::Any, _) => true,
            (HostPattern::EndsWith(suffix), Host::Name(name)) => {
                name.len() > suffix.len() && name.ends_with(suffix.as_str())
            }
            (HostPattern::EndsWith(_), Host::V4(_) | Host::V6(_)) => false,
        };
        let path = match &self.path {
            PathPattern::Exactly(path) => *path == address.path,
            PathPattern::Below(path) => {
                address.path.len() > path.len() && address.path.starts_with(path.as_str())
            }
        };
        host && path && self.scheme == address.scheme && self.port.is_none_or(|port| port == address.port)
    }
}

/// What a participant is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    scheme: Scheme,
    host: Host,
    port: u16,
    /// With the slash that it begins with; empty: none.
    path: String,
}

impl Address {
    pub(super) fn parse(written: &str) -> Result<Self, &'static str> {
        if written.len() > ADDRESS_BYTES_MAX {
            return Err("it is longer than 256 bytes");
        }
        let (scheme, rest) = Scheme::split(written)?;
        let (authority, path) = split_path(rest);
        let (host, port) = split_port(authority)?;
        let (host, path) = (Host::parse(host)?, parse_path(scheme, path)?);
        let port = match (scheme, port) {
            (scheme, Some(_)) if scheme.is_name() => return Err(NO_PORT),
            (_, Some(digits)) => parse_port(digits)?,
            (_, None) => scheme.default_port(),
        };
        Ok(Address { scheme, host, port, path })
    }
}

impl Address {
    /// Whether it says itself where it is.
    pub(super) fn is_place(&self) -> bool {
        !self.scheme.is_name()
    }

    /// Whether it is called by POST with JSON, and not by gRPC.
    pub(super) fn is_by_post(&self) -> bool {
        !self.path.is_empty()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Attached => "attached",
            Scheme::Service => "service",
        };
        match &self.host {
            Host::Name(name) => write!(f, "{scheme}://{name}")?,
            Host::V4(ip) => write!(f, "{scheme}://{ip}")?,
            Host::V6(ip) => write!(f, "{scheme}://[{ip}]")?,
        }
        match self.scheme {
            Scheme::Attached | Scheme::Service => Ok(()),
            Scheme::Http | Scheme::Https => write!(f, ":{}{}", self.port, self.path),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
    /// The participant does not listen: it is called on its own stream.
    Attached,
    /// The configuration says where it is.
    Service,
}

const NO_PORT: &str = "the name of an attached participant or of a service has neither port nor path";

impl Scheme {
    fn split(written: &str) -> Result<(Self, &str), &'static str> {
        let (scheme, rest) = written.split_once("://").ok_or("it has no scheme")?;
        if scheme.eq_ignore_ascii_case("http") {
            Ok((Scheme::Http, rest))
        } else if scheme.eq_ignore_ascii_case("https") {
            Ok((Scheme::Https, rest))
        } else if scheme.eq_ignore_ascii_case("attached") {
            Ok((Scheme::Attached, rest))
        } else if scheme.eq_ignore_ascii_case("service") {
            Ok((Scheme::Service, rest))
        } else {
            Err("the scheme is none of http, https, attached and service")
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
            Scheme::Attached | Scheme::Service => 0,
        }
    }

    /// Whether a name follows it, rather than a place in the network.
    fn is_name(self) -> bool {
        matches!(self, Scheme::Attached | Scheme::Service)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// In lower case.
    Name(String),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

impl Host {
    fn parse(written: &str) -> Result<Self, &'static str> {
        if let Some(inner) = written.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or("the bracket of an IPv6 address is not closed")?;
            return inner.parse().map(Host::V6).map_err(|_| "it has brackets without an IPv6 address");
        }
        if let Ok(ip) = written.parse() {
            return Ok(Host::V4(ip));
        }
        if written.is_empty() {
            return Err("it has no host");
        }
        if written.len() > NAME_BYTES_MAX {
            return Err("the host is longer than 253 bytes");
        }
        if !written.split('.').all(is_label) {
            return Err(
                "the host is neither a name of letters, digits, `-`, `_` and `.` nor an IP address, \
                        or something follows the port",
            );
        }
        // 127.1, 0177.0.0.1, 2130706433 and 0x7f000001 are 127.0.0.1 to many a resolver.
        let last = written.rsplit('.').next().unwrap_or(written);
        let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
        if last.bytes().all(|b| b.is_ascii_digit())
            || hexadecimal.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err("an IPv4 address is written as four decimal numbers");
        }
        Ok(Host::Name(written.to_ascii_lowercase()))
    }
}

fn is_label(label: &str) -> bool {
    (1..=LABEL_BYTES_MAX).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Splits `authority[/path]`.
fn split_path(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find('/').unwrap_or(rest.len()))
}

/// A path that means the same to everyone: nothing to decode, to normalize, or to go up by.
fn parse_path(scheme: Scheme, path: &str) -> Result<String, &'static str> {
    match path {
        "" => Ok(String::new()),
        _ if scheme.is_name() => Err(NO_PORT),
        _ if is_path(path) => Ok(path.to_owned()),
        _ => Err(
            "the path is not `/` and a name of letters, digits, `-`, `_`, `~` and `.`, once or more, or something follows it",
        ),
    }
}

fn is_path(path: &str) -> bool {
    let is_plain = |segment: &str| segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_~.".contains(&b));
    let is_name = |segment: &str| !["", ".", ".."].contains(&segment) && is_plain(segment);
    path.strip_prefix('/').is_some_and(|names| names.split('/').all(is_name))
}

/// Splits `host[:port]`; the colons of an IPv6 address are inside its brackets.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), &'static str> {
    if authority.starts_with('[') {
        let end = authority.find(']').ok_or("the bracket of an IPv6 address is not closed")? + 1;
        let (host, rest) = authority.split_at(end);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err("something other than a port follows the host"),
        };
    }
    match authority.split_once(':') {
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((authority, None)),
    }
}

fn parse_port(digits: &str) -> Result<u16, &'static str> {
    const WHY: &str = "the port is not a number from 1 to 65535, or something follows it";
    if digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(WHY);
    }
    digits.parse().map_err(|_| WHY)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(patterns: &[&str]) -> AllowList {
        AllowList::parse(patterns).unwrap()
    }

    #[track_caller]
    fn check(patterns: &[&str], permitted: &[&str], refused: &[&str]) {
        let list = list(patterns);
        for address in permitted {
            assert!(list.permits(address), "{address} must be permitted by {patterns:?}");
        }
        for address in refused {
            assert!(!list.permits(address), "{address} must be refused by {patterns:?}");
        }
    }

    #[test]
    fn default_is_any_port_of_this_machine() {
        let default = AllowList::default();
        assert_eq!(default, list(&default.patterns().collect::<Vec<_>>()));
        for address in [
            "http://127.0.0.1:7101",
            "http://localhost:1",
            "http://[::1]:65535",
            "http://localhost",
            "attached://a.b",
        ] {
            assert!(default.permits(address), "{address}");
        }
        for address in ["https://127.0.0.1:7101", "http://127.0.0.2:7101", "http://example.com:7101"] {
            assert!(!default.permits(address), "{address}");
        }
    }

    #[test]
    fn attached_participants_and_services_have_a_name_and_no_port() {
        check(
            &["attached://shop", "attached://*.bank"],
            &["attached://shop", "ATTACHED://Shop", "attached://a.bank"],
            &[
                "attached://bank",
                "attached://shop:80",
                "http://shop",
                "attached://",
                "attached://*",
                "attached://shop/",
            ],
        );
        check(
            &["attached://*"],
            &["attached://shop"],
            &["http://shop", "attached://shop:1", "attached://a b"],
        );
        check(&["http://shop:*"], &["http://shop:1"], &["attached://shop"]);
        check(
            &["service://*"],
            &["service://shop"],
            &["attached://shop", "service://shop:1", "service://shop/a"],
        );
        for pattern in ["attached://shop:80", "attached://shop:*", "http://*:80", "http://*"] {
            assert!(AllowList::parse([pattern]).is_err(), "{pattern}");
        }
        assert_eq!(Address::parse("Attached://Shop").unwrap().to_string(), "attached://shop");
    }

    #[test]
    fn userinfo_paths_and_what_else_follows_is_refused() {
        check(
            &["http://127.0.0.1:*", "http://localhost:*", "http://[::1]:*"],
            &[],
            &[
                "http://127.0.0.1:80@evil.example:7101",
                "http://localhost@evil.example",
                "http://evil.example@localhost:7101",
                "http://user:secret@localhost:7101",
                "http://localhost:7101/",
                "http://localhost:7101/path",
                "http://localhost/path",
                "http://localhost:7101?query",
                "http://localhost:7101#fragment",
                "http://evil.example#@localhost:7101",
                "http://evil.example\\@localhost:7101",
                "http://localhost\\.evil.example:7101",
                "http://localhost:7101 ",
                " http://localhost:7101",
                "http://localhost:7101\n",
                "http://localhost\t:7101",
                "http://localhost\0:7101",
                "http://localhost%2e:7101",
                "http://local%68ost:7101",
                "http://localhost.:7101",
                "http://localhost.evil.example:7101",
                "http://[::1]evil.example:7101",
                "http://[::1]:7101:7102",
            ],
        );
    }

    #[test]
    fn a_path_is_permitted_where_a_pattern_has_one() {
        check(
            &["http://stock:8080/api/stock", "https://*.svc.local:*/concord/*", "http://[::1]:80/*"],
            &[
                "http://stock:8080/api/stock",
                "HTTP://STOCK:8080/api/stock",
                "https://pay.svc.local/concord/v1",
                "https://pay.svc.local:7101/concord/v1/tcc",
                "http://[::1]/a",
            ],
            &[
                "http://stock:8080",
                "http://stock:8080/",
                "http://stock:8080/api",
                "http://stock:8080/API/stock",
                "http://stock:8080/api/stock/",
                "http://stock:8080/api/stock/more",
                "https://pay.svc.local/concord",
                "https://pay.svc.local/concord/",
                "https://pay.svc.local/concord/../admin",
                "https://pay.svc.local/concord/./v1",
                "https://pay.svc.local/concord//v1",
                "https://pay.svc.local/concord/%2e%2e/admin",
                "https://pay.svc.local/concord/v1?x=1",
                "https://pay.svc.local/concord/v1#x",
                "https://pay.svc.local/concord/*",
                "https://pay.svc.local/concord/v 1",
                "http://[::1]",
                "http://[::1]/",
            ],
        );
        assert!(AllowList::is_http_service("http://stock:8080/api"));
        assert!(!AllowList::is_http_service("http://stock:8080"));
        assert_eq!(Address::parse("HTTP://Stock/Api").unwrap().to_string(), "http://stock:80/Api");
        for pattern in [
            "attached://shop/path",
            "attached://*/*",
            "http://a:1/*/b",
            "http://a:1/b*",
            "http://a:1/../*",
            "http://a:1//*",
        ] {
            assert!(AllowList::parse([pattern]).is_err(), "{pattern}");
        }
    }

    #[test]
    fn ports() {
        check(
            &["http://a.example:7101", "https://b.example:443", "http://c.example:80"],
            &["http://a.example:7101", "https://b.example", "https://b.example:443", "http://c.example"],
            &[
                "http://a.example:7102",
                "http://a.example",
                "http://a.example:",
                "http://a.example:*",
                "http://a.example:07101",
                "http://a.example:+7101",
                "http://a.example:72637",
                "http://a.example:7101:7101",
                "http://a.example:０",
                "http://b.example",
                "https://c.example",
            ],
        );
        check(
            &["http://a.example:*"],
            &["http://a.example"],
            &["http://a.example:0", "http://a.example:65536"],
        );
    }

    #[test]
    fn case_is_nothing_to_a_name() {
        check(
            &["http://Pay.Example:7101", "HTTPS://*.Svc.Local:*"],
            &["http://pay.example:7101", "HTTP://PAY.EXAMPLE:7101", "https://A.SVC.local:1"],
            &["http://pay.example:7102"],
        );
    }

    #[test]
    fn ip_addresses_are_compared_by_value_and_never_guessed() {
        check(
            &["http://127.0.0.1:*", "http://[2001:db8::7]:7101"],
            &["http://127.0.0.1:1", "http://[2001:0DB8:0::0007]:7101"],
            &[
                "http://127.1:1",
                "http://127.0.0.01:1",
                "http://0177.0.0.1:1",
                "http://2130706433:1",
                "http://0x7f000001:1",
                "http://0x7f.0.0.0x1:1",
                "http://[::ffff:127.0.0.1]:1",
                "http://[2001:db8::7%25eth0]:7101",
                "http://2001:db8::7:7101",
                "http://[2001:db8::7:7101",
                "http://[127.0.0.1]:1",
                "http://[]:1",
                "http://localhost:1",
            ],
        );
    }

    #[test]
    fn a_leading_star_is_one_label_or_more() {
        check(
            &["https://*.svc.local:7101"],
            &[
                "https://pay.svc.local:7101",
                "https://pay.shop.svc.local:7101",
                "https://pay_2.svc.local:7101",
            ],
            &[
                "https://svc.local:7101",
                "https://.svc.local:7101",
                "https://evilsvc.local:7101",
                "https://pay.svc.local.evil.example:7101",
                "https://*.svc.local:7101",
                "https://a..svc.local:7101",
                "https://-a.svc.local:7101",
                "http://pay.svc.local:7101",
                "https://user@pay.svc.local:7101",
                "https://evil.example@pay.svc.local:7101",
                "https://evil.example:7101@pay.svc.local:7101",
                "https://evil.example/.svc.local:7101",
                "https://evil.example?.svc.local:7101",
                "https://evil.example#.svc.local:7101",
                "https://evil.example\\.svc.local:7101",
                "https://evil.example%00.svc.local:7101",
                "https://evil example.svc.local:7101",
            ],
        );
    }

    #[test]
    fn unicode_is_refused() {
        check(
            &["http://localhost:*", "http://*.example:*"],
            &["http://xn--bcher-kva.example:1"],
            &[
                "http://bücher.example:1",
                "http://localhoſt:1",
                "http://ⓛocalhost:1",
                "http://127。0。0。1:1",
                "ｈttp://localhost:1",
            ],
        );
    }

    #[test]
    fn patterns_that_mean_too_much_or_nothing_are_refused() {
        for pattern in [
            "",
            "*",
            "*://localhost:*",
            "localhost:7101",
            "ftp://localhost:21",
            "http://localhost",
            "http://*:7101",
            "http://*.:7101",
            "http://a.*.example:7101",
            "http://*a.example:7101",
            "http://*.*.example:7101",
            "http://*.0.0.1:7101",
            "http://*.[::1]:7101",
            "http://localhost:7*",
            "http://localhost:0",
            "http://localhost:*/",
            "http://:7101",
            "http://bücher.example:1",
        ] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern:?} must be refused");
        }
        assert!(!list(&[]).permits("http://localhost:7101"), "an empty list permits nobody");
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let label = "a".repeat(63);
        let long = format!("http://{label}.{label}.{label}.example:1");
        assert!(list(&[&long]).permits(&long));
        check(&["http://*.example:*"], &[], &[&format!("http://{}.example:1", "a".repeat(64))]);
        check(&["http://*.example:*"], &[], &[&format!("http://{}example:1", "a.".repeat(130))]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), odd in "(http://)?[\\[\\]:*.@a1\\\\/%]{0,12}") {
            for text in [&text, &odd] {
                let _ = Pattern::parse(text);
                AllowList::default().permits(text);
            }
        }

        /// Whatever is permitted, the HTTP client reads the same host and port out of it.
        #[test]
        fn what_is_permitted_means_the_same_to_the_client(
            address in "(http|HTTP)://(localhost|127\\.0\\.0\\.1|\\[::1\\])[\\[\\]:*.@a1\\\\/%]{0,4}"
        ) {
            if AllowList::default().permits(&address) {
                let uri: tonic::transport::Uri = address.parse().unwrap();
                let host = uri.host().unwrap();
                prop_assert!(["localhost", "127.0.0.1", "[::1]"].contains(&host), "{}", host);
                prop_assert!(uri.path() == "/" && uri.query().is_none());
                prop_assert_eq!(Address::parse(&address).unwrap().port, uri.port_u16().unwrap_or(80));
            }
        }
    }
}
