//! Requests to the hub.

use std::time::{Duration, Instant, SystemTime};

use craft_net::http::{Request, StatusCode, Uri};
use craft_net::{Bounds, Client as Net, Pace, Stream, Trouble, is_loopback};

use super::patience::{Over, Patience, wanted};
use super::{Limits, Listener, RepoId, Settings};
use crate::error::{Result, StoreError};

/// Most redirects of one request.
const MAX_REDIRECTS: usize = 8;
/// Longest answer that is read as a whole.
const MAX_ANSWER: usize = 256 << 20;

/// Asks the hub, and hosts that it redirects to.
pub(super) struct Client<'a> {
    net: Net,
    settings: &'a Settings,
    id: &'a RepoId,
}

impl<'a> Client<'a> {
    pub(super) fn new(settings: &'a Settings, id: &'a RepoId) -> Self {
        let bounds = Bounds {
            connect: Some(Duration::from_secs(20)),
            // Bounds for the threads that read; who waits for them has tighter ones.
            head: Some(settings.limits.head),
            piece: Some(4 * settings.limits.window),
            whole: None,
        };
        let host = settings.endpoint.parse::<Uri>().ok().and_then(|u| u.host().map(str::to_owned));
        let loopback = host.is_some_and(|host| is_loopback(&host));
        Self { net: Net::new(bounds, loopback), settings, id }
    }

    pub(super) fn error(&self, message: String) -> StoreError {
        StoreError::Hub { id: self.id.to_string(), message, unreachable: false }
    }

    /// The answer to a request below the endpoint, redirects followed, asked again where the hub is busy
    /// or the connection breaks. The token goes to the endpoint's own origin only. `from`: the first
    /// byte wanted.
    pub(super) fn get(
        &self,
        path: &str,
        from: u64,
        patience: &mut Patience,
        listener: &mut dyn Listener,
    ) -> Result<Stream> {
        loop {
            let fault = match self.follow(path, from, listener) {
                Ok(stream) if busy(stream.status) => Fault::Busy(stream),
                Ok(stream) => return self.accept(stream, path),
                Err(fault) => fault,
            };
            self.wait(fault, path, patience, listener)?;
        }
    }

    /// Waits after a fault until it is time to ask again.
    ///
    /// # Errors
    /// The fault, when there is no more patience for it.
    pub(super) fn wait(
        &self,
        fault: Fault,
        path: &str,
        patience: &mut Patience,
        listener: &mut dyn Listener,
    ) -> Result<()> {
        let (next, what) = match &fault {
            Fault::Final(_) => return Err(self.last(fault, path, None)),
            Fault::Busy(stream) => {
                let header = |name: &str| stream.headers.get(name).and_then(|v| v.to_str().ok());
                let wanted = wanted(header, SystemTime::now());
                (patience.again(wanted), format!("the hub answers {}", stream.status))
            }
            Fault::Trouble(_, Trouble::Stopped) => return Err(StoreError::Stopped),
            Fault::Trouble(host, Trouble::Slow(why)) => {
                (patience.slow(), format!("{host} is too slow ({why})"))
            }
            Fault::Trouble(host, Trouble::Broke(why)) => {
                (patience.again(None), format!("the connection to {host} broke ({why})"))
            }
            Fault::Trouble(host, Trouble::Down(why)) if patience.insists() => {
                (patience.again(None), format!("{host} does not answer ({why})"))
            }
            Fault::Trouble(_, Trouble::Down(_)) => return Err(self.last(fault, path, None)),
        };
        let wait = match next {
            Ok(wait) => wait,
            Err(over) => return Err(self.last(fault, path, Some(over))),
        };
        listener.note(&format!(
            "{}: {what}; asking again in {} s (try {})",
            self.id,
            seconds(wait),
            patience.count()
        ));
        sleep(wait, &|| listener.stopped())
    }

    /// The words for a fault that stays.
    fn last(&self, fault: Fault, path: &str, over: Option<Over>) -> StoreError {
        let asked = match over {
            Some(Over::Tries(n, waited)) if n > 1 => {
                format!(", asked {n} times over {} s", seconds(waited))
            }
            Some(Over::Longer(wanted)) => {
                format!(", and wants {} s of waiting", seconds(wanted))
            }
            _ => String::new(),
        };
        let (message, unreachable) = match fault {
            Fault::Final(error) => return error,
            Fault::Busy(stream) => {
                let status = stream.status;
                let token = match status == StatusCode::TOO_MANY_REQUESTS
                    && self.settings.token.is_none()
                {
                    true => ", or set HF_TOKEN: who is known may ask more often",
                    false => "",
                };
                let text = format!(
                    "the hub answers {status} for {path}{asked}; expected the file: try again later{token}"
                );
                (text, true)
            }
            Fault::Trouble(_, Trouble::Stopped) => return StoreError::Stopped,
            Fault::Trouble(host, Trouble::Slow(why)) => (
                format!(
                    "{host} is too slow ({why}{asked}); expected an answer in time: try again later, or set HF_HUB_DOWNLOAD_TIMEOUT to more seconds"
                ),
                true,
            ),
            Fault::Trouble(host, Trouble::Broke(why) | Trouble::Down(why)) => {
                (format!("{host} does not answer ({why}{asked})"), true)
            }
        };
        StoreError::Hub { id: self.id.to_string(), message, unreachable }
    }

    /// One request with its redirects.
    fn follow(
        &self,
        path: &str,
        from: u64,
        listener: &dyn Listener,
    ) -> std::result::Result<Stream, Fault> {
        let endpoint = self.uri(&self.settings.endpoint)?;
        let mut at = self.uri(&format!("{}{path}", self.settings.endpoint))?;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::get(at.clone());
            if let Some(token) =
                self.settings.token.as_ref().filter(|_| origin(&at) == origin(&endpoint))
            {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            let request = request.body(()).map_err(|error| self.error(error.to_string()))?;
            let Limits { head, window, least, .. } = self.settings.limits;
            let pace = Pace { head, window, least };
            let stream = Stream::open(&self.net, request, pace, &|| listener.stopped()).map_err(
                |trouble| Fault::Trouble(at.host().unwrap_or("the hub").to_owned(), trouble),
            )?;
            if !stream.status.is_redirection() {
                return Ok(stream);
            }
            let next = stream.headers.get("location").and_then(|v| v.to_str().ok());
            let Some(next) = next else {
                return Err(self.error("the hub redirects to nowhere".to_owned()).into());
            };
            at = if next.starts_with('/') {
                let (scheme, authority) = (at.scheme_str().unwrap_or("https"), at.authority());
                self.uri(&format!("{scheme}://{}{next}", authority.map_or("", |a| a.as_str())))?
            } else {
                self.uri(next)?
            };
            if endpoint.scheme_str() == Some("https") && at.scheme_str() != Some("https") {
                let text = format!("the hub redirects to {at}, which is not encrypted");
                return Err(self.error(text).into());
            }
        }
        Err(self.error(format!("the hub redirects more than {MAX_REDIRECTS} times")).into())
    }

    fn uri(&self, text: &str) -> Result<Uri> {
        let uri = text.parse::<Uri>().ok().filter(|u| u.host().is_some());
        uri.ok_or_else(|| {
            self.error(format!(
                "`{text}` is no address; expected one such as https://huggingface.co in HF_ENDPOINT"
            ))
        })
    }

    fn accept(&self, response: Stream, path: &str) -> Result<Stream> {
        let status = response.status;
        if status.is_success() {
            return Ok(response);
        }
        let header = |name: &str| response.headers.get(name).and_then(|v| v.to_str().ok());
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
            _ => format!("the hub answers {status} for {path}; expected the file: look at {page}"),
        };
        Err(self.error(message))
    }

    /// The whole answer.
    pub(super) fn text(
        &self,
        path: &str,
        patient: bool,
        listener: &mut dyn Listener,
    ) -> Result<Vec<u8>> {
        let limits = self.settings.limits;
        let tries = if patient { limits.tries } else { limits.tries.min(2) };
        let mut patience = Patience::hasty(Limits { tries, ..limits });
        loop {
            let mut stream = self.get(path, 0, &mut patience, listener)?;
            let mut text = Vec::new();
            let end = Instant::now() + limits.list;
            let trouble = loop {
                if Instant::now() > end {
                    let time = seconds(limits.list);
                    break Trouble::Slow(format!("its list of files is not there after {time} s"));
                }
                match stream.next(&|| listener.stopped()) {
                    Ok(Some(_)) if text.len() > MAX_ANSWER => {
                        return Err(self.error(format!(
                            "its list of files is longer than {} MiB; expected the list of a model: is HF_ENDPOINT a hub?",
                            MAX_ANSWER >> 20
                        )));
                    }
                    Ok(Some(data)) => text.extend(data),
                    Ok(None) => return Ok(text),
                    Err(trouble) => break trouble,
                }
            };
            self.wait(self.fault(trouble), path, &mut patience, listener)?;
        }
    }

    /// A fault in the middle of an answer.
    pub(super) fn fault(&self, trouble: Trouble) -> Fault {
        let host = self.settings.endpoint.parse::<Uri>().ok();
        let host = host.and_then(|uri| uri.host().map(str::to_owned));
        Fault::Trouble(host.unwrap_or_else(|| "the hub".to_owned()), trouble)
    }
}

/// Why an answer is not there.
#[derive(Debug)]
pub(super) enum Fault {
    /// The hub asks for patience.
    Busy(Stream),
    /// What a host does instead of answering.
    Trouble(String, Trouble),
    /// Asking again would not help.
    Final(StoreError),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Final(error)
    }
}

/// Answers that another time may be better.
fn busy(status: StatusCode) -> bool {
    let later = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT];
    later.contains(&status) || status.is_server_error()
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

/// Waits, but not when the user wants to stop.
fn sleep(time: Duration, stopped: &dyn Fn() -> bool) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        if stopped() {
            return Err(StoreError::Stopped);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

fn origin(uri: &Uri) -> (Option<&str>, Option<&str>, Option<u16>) {
    (uri.scheme_str(), uri.host(), uri.port_u16())
}
