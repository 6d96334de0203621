//! JSON over HTTP, with bounds on everything.

use std::fmt;
use std::thread;
use std::time::Duration;

use crate::error::ExternalError;
use crate::text::head;
use crate::{ServerOptions, answer};
use craft_net::http::{HeaderMap, header};
use craft_net::{Answer, Bounds, Client as Net, Endpoint, NetError};
use serde_json::Value;

/// Longest accepted answer, in bytes.
const MAX_BODY: u64 = 8 << 20;
/// First pause before a server is asked again; doubles each time.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest pause, also where the server asks for a longer one.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Asks a server: no redirects, no proxy for this machine, bounded time and bodies.
pub(crate) struct Client {
    net: Net,
    url: String,
    key: Option<String>,
    timeout: Duration,
    retries: usize,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the key.
        f.debug_struct("Client").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Why a request failed, and whether asking again may help.
struct Failure {
    reason: String,
    again: Option<Duration>,
}

impl Client {
    /// Checks address and key. `path` is appended to the address. Connects to nothing.
    pub(crate) fn new(options: &ServerOptions, path: &str) -> Result<Self, ExternalError> {
        let key = options.api_key_env.as_deref().map(read_key).transpose()?;
        let endpoint = Endpoint::new(&options.url, options.allow_remote, key.is_some())?;
        let bounds = Bounds { whole: Some(options.timeout), ..Bounds::default() };
        Ok(Self {
            net: Net::new(bounds, endpoint.loopback),
            url: format!(
                "{}{path}",
                if path.is_empty() { &endpoint.url } else { endpoint.url.trim_end_matches('/') }
            ),
            key,
            timeout: options.timeout,
            retries: options.retries,
        })
    }

    /// Posts JSON and parses the JSON that comes back.
    pub(crate) fn post(&self, body: &Value) -> Result<Value, String> {
        let body = body.to_string();
        let mut pause = PAUSE;
        for attempt in 0.. {
            match self.post_once(&body) {
                Ok(value) => return Ok(value),
                Err(Failure { again: Some(least), .. }) if attempt < self.retries => {
                    thread::sleep(pause.max(least).min(MAX_PAUSE));
                    pause *= 2;
                }
                Err(Failure { reason, again }) => {
                    let tries = match (attempt, again) {
                        (0, _) | (_, None) => String::new(),
                        (n, _) => format!(" (asked {} times)", n + 1),
                    };
                    return Err(self.without_key(&format!("{}: {reason}{tries}", self.url)));
                }
            }
        }
        Err("not asked".to_owned())
    }

    fn post_once(&self, body: &str) -> Result<Value, Failure> {
        let mut headers = vec![(header::CONTENT_TYPE, "application/json".to_owned())];
        if let Some(key) = &self.key {
            headers.push((header::AUTHORIZATION, format!("Bearer {key}")));
        }
        let answer = self.net.post(&self.url, &headers, body, MAX_BODY);
        let Answer { status, headers, body } = answer.map_err(|error| self.failure(&error))?;
        let again =
            (status.as_u16() == 429 || status.is_server_error()).then(|| wanted_pause(&headers));
        let location =
            headers.get(header::LOCATION).map(|to| head(&String::from_utf8_lossy(to.as_bytes())));
        let text = String::from_utf8_lossy(&body);
        if status.is_redirection() {
            let to = location.unwrap_or_else(|| "nowhere".to_owned());
            let reason = format!(
                "it redirects ({status}) to {to}, which is not followed: give the final address"
            );
            return Err(Failure { reason, again: None });
        }
        if !status.is_success() {
            return Err(Failure {
                reason: format!("it answered {status}: {}", head(&text)),
                again,
            });
        }
        answer::parse(&text).map_err(|error| Failure {
            reason: format!("its answer is not JSON ({error}): {}", head(&text)),
            again: None,
        })
    }

    fn failure(&self, error: &NetError) -> Failure {
        let (reason, again) = match error {
            NetError::Late { .. } => {
                (format!("no answer within {} seconds", self.timeout.as_secs_f64()), false)
            }
            NetError::Broke(_) | NetError::Down(_) => {
                (format!("it cannot be reached, or broke off ({error})"), true)
            }
            NetError::TooLong(_) | NetError::Protocol(_) | NetError::Other(_) => {
                (error.to_string(), false)
            }
        };
        Failure { reason, again: again.then_some(Duration::ZERO) }
    }

    /// A message in which the key does not stand, whatever the server quoted.
    fn without_key(&self, message: &str) -> String {
        match &self.key {
            Some(key) => message.replace(key.as_str(), "***"),
            None => message.to_owned(),
        }
    }
}

/// The pause that a busy server asks for, in whole seconds; otherwise none.
fn wanted_pause(headers: &HeaderMap) -> Duration {
    let seconds = headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

fn read_key(name: &str) -> Result<String, ExternalError> {
    let fail = |problem| ExternalError::Key { name: name.to_owned(), problem };
    let key = std::env::var(name).map_err(|_| fail("not set"))?;
    let key = key.trim();
    if key.is_empty() {
        return Err(fail("empty"));
    }
    if !key.chars().all(|c| c.is_ascii_graphic()) {
        return Err(fail("not a key (it holds spaces or characters that a header cannot)"));
    }
    Ok(key.to_owned())
}
