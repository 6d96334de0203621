//! Requests to the hub.

use std::io::Read;
use std::time::Duration;

use ureq::http::{Response, StatusCode, Uri};
use ureq::{Agent, Body};

use super::{RepoId, Settings};
use crate::error::{Result, StoreError};

/// Most redirects of one request.
const MAX_REDIRECTS: usize = 8;
/// Longest answer that is read as a whole.
const MAX_ANSWER: u64 = 64 << 20;

/// Asks the hub, and hosts that it redirects to.
pub(super) struct Client<'a> {
    agent: Agent,
    settings: &'a Settings,
    id: &'a RepoId,
}

impl<'a> Client<'a> {
    pub(super) fn new(settings: &'a Settings, id: &'a RepoId) -> Self {
        let seconds = |n| Some(Duration::from_secs(n));
        let mut config = Agent::config_builder()
            .user_agent(concat!("craft/", env!("CARGO_PKG_VERSION")))
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(seconds(20))
            .timeout_recv_response(seconds(60));
        // A proxy cannot reach this machine's own servers.
        let host = settings.endpoint.parse::<Uri>().ok().and_then(|u| u.host().map(str::to_owned));
        if host.is_some_and(|h| h == "localhost" || h == "[::1]" || h.starts_with("127.")) {
            config = config.proxy(None);
        }
        Self { agent: config.build().into(), settings, id }
    }

    pub(super) fn error(&self, message: String) -> StoreError {
        StoreError::Hub { id: self.id.to_string(), message, unreachable: false }
    }

    fn unreachable(&self, at: &Uri, error: impl std::fmt::Display) -> StoreError {
        let host = at.host().unwrap_or("the hub");
        let message = format!("{host} does not answer ({error})");
        StoreError::Hub { id: self.id.to_string(), message, unreachable: true }
    }

    /// The answer to a request below the endpoint, redirects followed. The token goes to the endpoint's
    /// own origin only. `from`: the first byte wanted.
    pub(super) fn get(&self, path: &str, from: u64) -> Result<Response<Body>> {
        let endpoint = self.uri(&self.settings.endpoint)?;
        let mut at = self.uri(&format!("{}{path}", self.settings.endpoint))?;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(at.clone());
            if let Some(token) =
                self.settings.token.as_ref().filter(|_| origin(&at) == origin(&endpoint))
            {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            let response = request.call().map_err(|error| self.unreachable(&at, error))?;
            if !response.status().is_redirection() {
                return self.accept(response, path);
            }
            let next = response.headers().get("location").and_then(|v| v.to_str().ok());
            let Some(next) = next else {
                return Err(self.error("the hub redirects to nowhere".to_owned()));
            };
            at = if next.starts_with('/') {
                let (scheme, authority) = (at.scheme_str().unwrap_or("https"), at.authority());
                self.uri(&format!("{scheme}://{}{next}", authority.map_or("", |a| a.as_str())))?
            } else {
                self.uri(next)?
            };
            if endpoint.scheme_str() == Some("https") && at.scheme_str() != Some("https") {
                return Err(
                    self.error(format!("the hub redirects to {at}, which is not encrypted"))
                );
            }
        }
        Err(self.error(format!("the hub redirects more than {MAX_REDIRECTS} times")))
    }

    fn uri(&self, text: &str) -> Result<Uri> {
        let uri = text.parse::<Uri>().ok().filter(|u| u.host().is_some());
        uri.ok_or_else(|| {
            self.error(format!(
                "`{text}` is no address; expected one such as https://huggingface.co in HF_ENDPOINT"
            ))
        })
    }

    fn accept(&self, response: Response<Body>, path: &str) -> Result<Response<Body>> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let code = header("x-error-code").unwrap_or_default();
        let page = format!("{}/{}", self.settings.endpoint, self.id.name);
        let signed = self.settings.token.is_some();
        let message = match (status, code) {
            (_, "GatedRepo") | (StatusCode::FORBIDDEN, "") => format!(
                "it is gated or not yours to read; expected an account that has accepted its conditions: accept them at {page} and set HF_TOKEN to a token of that account"
            ),
            (_, "RevisionNotFound") => format!(
                "it has no revision `{}`; expected a branch, tag or commit: look at {page}",
                self.id.revision
            ),
            (_, "EntryNotFound") => format!("it has no file {path}: look at {page}"),
            (StatusCode::UNAUTHORIZED, _) if signed => format!(
                "the hub does not accept HF_TOKEN, or there is no such repository; expected a valid token and the name of a repository: make a new token, or look at {page}"
            ),
            (StatusCode::UNAUTHORIZED, _) => format!(
                "the hub answers 401: there is no such repository, or it is private; expected the name of a public one, or HF_TOKEN set to a token that may read it: look at {page}"
            ),
            (StatusCode::NOT_FOUND, _) => format!(
                "there is no such repository or revision `{}`; expected owner/name or owner/name@revision as at {page}",
                self.id.revision
            ),
            _ => format!("the hub answers {status} for {path}; expected the file: try again later"),
        };
        Err(self.error(message))
    }

    /// The answer as JSON.
    pub(super) fn json(&self, path: &str) -> Result<serde_json::Value> {
        let mut text = Vec::new();
        let body = self.get(path, 0)?.into_body();
        body.into_reader()
            .take(MAX_ANSWER)
            .read_to_end(&mut text)
            .map_err(|e| self.error(format!("its answer breaks off ({e}): try again")))?;
        serde_json::from_slice(&text)
            .map_err(|e| self.error(format!("the answer is not JSON ({e}): is HF_ENDPOINT a hub?")))
    }
}

fn origin(uri: &Uri) -> (Option<&str>, Option<&str>, Option<u16>) {
    (uri.scheme_str(), uri.host(), uri.port_u16())
}
