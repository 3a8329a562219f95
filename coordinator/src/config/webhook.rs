//! The address that alerts are posted to.

use std::fmt;

use url::Url;

/// An `http` or `https` URL. Whoever knows all of it may post there, so only where it is is ever shown.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl(Url);

impl WebhookUrl {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(WebhookUrl(url)),
            _ => Err("must be a URL such as \"https://alerts.local/hooks/7\"".to_owned()),
        }
    }

    /// All of it. Not for logs.
    pub fn secret(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/***", self.0.origin().ascii_serialization())
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gives_access_is_not_shown() {
        let url = WebhookUrl::parse("https://ann:s3cret@alerts.local:8443/hooks/t0ken?key=k3y").unwrap();
        assert_eq!(url.to_string(), "https://alerts.local:8443/***");
        assert_eq!(format!("{url:?}"), url.to_string());
        assert!(url.secret().contains("t0ken"));
        for wrong in ["", "alerts.local", "ftp://alerts.local/", "mailto:ann@alerts.local", "http://"] {
            assert!(WebhookUrl::parse(wrong).is_err(), "{wrong}");
        }
    }
}
