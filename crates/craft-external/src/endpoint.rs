//! Where a server may be.

use std::net::IpAddr;

use ureq::http::Uri;

use crate::error::ExternalError;

/// An address that was checked.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) url: String,
    /// On this machine.
    pub(crate) loopback: bool,
}

impl Endpoint {
    /// Checks an address. It is parsed by the library that connects to it, so that both see the same
    /// host. Loopback are the addresses 127.0.0.0/8 and ::1 and the name `localhost`.
    pub(crate) fn new(url: &str, allow_remote: bool, has_key: bool) -> Result<Self, ExternalError> {
        let wrong =
            |message: &str| ExternalError::Url { url: url.to_owned(), message: message.to_owned() };
        if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(wrong("it holds white space"));
        }
        let uri: Uri =
            url.parse().map_err(|e: ureq::http::uri::InvalidUri| wrong(&e.to_string()))?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("it does not begin with http:// or https://")),
        };
        let host = uri.host().unwrap_or_default().to_owned();
        if host.is_empty() {
            return Err(wrong("it has no host"));
        }
        if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
            return Err(ExternalError::Credentials { host });
        }
        if uri.port().is_none() && uri.authority().is_some_and(|a| a.as_str() != host) {
            return Err(wrong("the port is not a number from 1 to 65535"));
        }
        let literal: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        let loopback = match literal {
            Some(ip) => ip.is_loopback(),
            None => host.eq_ignore_ascii_case("localhost"),
        };
        if !loopback && !allow_remote {
            return Err(ExternalError::Remote { host });
        }
        if !loopback && has_key && !https {
            return Err(ExternalError::PlainKey { host });
        }
        Ok(Self { url: url.to_owned(), loopback })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_recognised_and_nothing_else_is() {
        for url in [
            "http://127.0.0.1:8000/score",
            "http://127.9.9.9/",
            "http://localhost:1",
            "http://LocalHost/v1",
            "http://[::1]:8000/a?b=c",
        ] {
            assert!(Endpoint::new(url, false, true).unwrap().loopback, "{url}");
        }
        for url in [
            "http://192.168.1.2:8000/score",
            "http://example.org",
            "http://localhost.example.org/",
            "http://127.0.0.1.example.org/",
            "http://0.0.0.0:80/",
            "http://[::]/",
            "http://2130706433/",
            "http://0x7f.1/",
        ] {
            assert!(
                matches!(Endpoint::new(url, false, false), Err(ExternalError::Remote { .. })),
                "{url}"
            );
            assert!(!Endpoint::new(url, true, false).unwrap().loopback, "{url}");
            assert!(matches!(Endpoint::new(url, true, true), Err(ExternalError::PlainKey { .. })));
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        for url in [
            "",
            "score",
            "127.0.0.1:8000/score",
            "ftp://127.0.0.1/",
            "file:///etc/passwd",
            "http://",
            "http:///score",
            "http://127.0.0.1:99999/",
            "http://127.0.0.1:x/",
            "http://127.0.0.1 /",
            "http://127.0.0.1/\nHost: x",
        ] {
            let found = Endpoint::new(url, true, false);
            assert!(matches!(found, Err(ExternalError::Url { .. })), "{url}: {found:?}");
        }
        for url in ["http://127.0.0.1@example.org/", "http://user:pass@127.0.0.1/"] {
            let found = Endpoint::new(url, true, false);
            assert!(matches!(found, Err(ExternalError::Credentials { .. })), "{url}: {found:?}");
        }
    }
}
