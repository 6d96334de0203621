//! Where a server may be.

use std::net::IpAddr;

use thiserror::Error;
use ureq::http::Uri;

/// Whether a host of an address is this machine: 127.0.0.0/8, ::1 (in brackets or not) or `localhost`.
/// A name is never looked up, so that no other name counts, whatever it leads to.
pub fn is_loopback(host: &str) -> bool {
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// Why an address is not used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// Not an address.
    #[error(
        "`{url}` is not an address ({message}): expected one such as http://127.0.0.1:8000/score"
    )]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong.
        message: String,
    },
    /// A key in an address.
    #[error(
        "the address of {host} holds a name or password: put the key into an environment variable and name it with api_key_env"
    )]
    Credentials {
        /// The server.
        host: String,
    },
    /// Another machine.
    #[error(
        "{host} is another machine, to which prompts and pictures would be sent: allow it with allow_remote = true (--allow-remote) if that is meant"
    )]
    Remote {
        /// The server.
        host: String,
    },
    /// A key without encryption.
    #[error("the key would be sent to {host} without encryption: use https://")]
    PlainKey {
        /// The server.
        host: String,
    },
}

/// An address that was checked.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// As it was given.
    pub url: String,
    /// Whether it is on this machine.
    pub loopback: bool,
}

impl Endpoint {
    /// Checks an address. It is parsed by the library that connects to it, so that both see the same
    /// host.
    ///
    /// # Errors
    /// When it is none, holds a password, is another machine without leave, or a key would be sent to
    /// another machine without encryption.
    pub fn new(url: &str, allow_remote: bool, has_key: bool) -> Result<Self, EndpointError> {
        let wrong =
            |message: &str| EndpointError::Url { url: url.to_owned(), message: message.to_owned() };
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
            return Err(EndpointError::Credentials { host });
        }
        if uri.port().is_none() && uri.authority().is_some_and(|a| a.as_str() != host) {
            return Err(wrong("the port is not a number from 1 to 65535"));
        }
        let loopback = is_loopback(&host);
        if !loopback && !allow_remote {
            return Err(EndpointError::Remote { host });
        }
        if !loopback && has_key && !https {
            return Err(EndpointError::PlainKey { host });
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
                matches!(Endpoint::new(url, false, false), Err(EndpointError::Remote { .. })),
                "{url}"
            );
            assert!(!Endpoint::new(url, true, false).unwrap().loopback, "{url}");
            assert!(matches!(Endpoint::new(url, true, true), Err(EndpointError::PlainKey { .. })));
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
            assert!(matches!(found, Err(EndpointError::Url { .. })), "{url}: {found:?}");
        }
        for url in ["http://127.0.0.1@example.org/", "http://user:pass@127.0.0.1/"] {
            let found = Endpoint::new(url, true, false);
            assert!(matches!(found, Err(EndpointError::Credentials { .. })), "{url}: {found:?}");
        }
    }

    #[test]
    fn a_name_that_begins_as_this_machine_is_another() {
        for host in ["127.0.0.1", "127.255.0.9", "::1", "[::1]", "localhost", "LOCALHOST"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["127.example.org", "127.0.0.1.nip.io", "127.1", "localhost.", "::2", "", "[]"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
