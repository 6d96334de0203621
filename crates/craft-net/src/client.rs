//! Requests with bounds on everything.

use std::io::ErrorKind;
use std::time::Duration;

use thiserror::Error;
use ureq::Agent;
use ureq::http::{HeaderMap, HeaderName, Request, Response, StatusCode};

/// How long a client waits; what is `None` has no bound of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// From connecting to the end of the answer.
    pub whole: Option<Duration>,
    /// Until there is a connection.
    pub connect: Option<Duration>,
    /// From the request to the head of the answer.
    pub head: Option<Duration>,
    /// For each piece of the body.
    pub piece: Option<Duration>,
}

/// Asks servers: no redirects, no proxy for this machine.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
}

/// An answer that was read as a whole.
#[derive(Debug)]
pub struct Answer {
    /// How it went.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum NetError {
    /// It did not come in time.
    #[error("{text}")]
    Late {
        /// What was waited for.
        text: String,
        /// Whether that was the head of the answer.
        head: bool,
    },
    /// Its body is longer than was asked for.
    #[error("its answer is longer than {0} bytes")]
    TooLong(u64),
    /// There was a connection, and it broke.
    #[error("{0}")]
    Broke(String),
    /// What came is not HTTP.
    #[error("{0}")]
    Protocol(String),
    /// There is no connection.
    #[error("{0}")]
    Down(String),
    /// Anything else: asking again does not help.
    #[error("{0}")]
    Other(String),
}

impl NetError {
    pub(crate) fn new(error: &ureq::Error) -> Self {
        let text = error.to_string();
        match error {
            ureq::Error::Timeout(kind) => {
                Self::Late { text, head: *kind == ureq::Timeout::RecvResponse }
            }
            ureq::Error::BodyExceedsLimit(most) => Self::TooLong(*most),
            ureq::Error::Io(error) if is_broken(error.kind()) => Self::Broke(text),
            ureq::Error::Protocol(_) => Self::Protocol(text),
            ureq::Error::Io(_) | ureq::Error::ConnectionFailed => Self::Down(text),
            _ => Self::Other(text),
        }
    }
}

/// Whether there was a connection before.
fn is_broken(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
    )
}

impl Client {
    /// A client for a server, which is on this machine (`loopback`) or not.
    pub fn new(bounds: Bounds, loopback: bool) -> Self {
        let mut config = Agent::config_builder()
            .timeout_global(bounds.whole)
            .timeout_connect(bounds.connect)
            .timeout_recv_response(bounds.head)
            .timeout_per_read(bounds.piece)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("craft/", env!("CARGO_PKG_VERSION")));
        // A proxy cannot reach this machine's own servers.
        if loopback {
            config = config.proxy(None);
        }
        Self { agent: config.build().new_agent() }
    }

    /// Sends a request without a body; the answer's body is not read yet.
    ///
    /// # Errors
    /// When no head of an answer comes.
    pub(crate) fn run(&self, request: Request<()>) -> Result<Response<ureq::Body>, NetError> {
        self.agent.run(request).map_err(|error| NetError::new(&error))
    }

    /// Posts a body; of the answer at most `most` bytes are read.
    ///
    /// # Errors
    /// When no answer comes, or a longer one.
    pub fn post(
        &self,
        url: &str,
        headers: &[(HeaderName, String)],
        body: &str,
        most: u64,
    ) -> Result<Answer, NetError> {
        let wrong = |error: ureq::Error| NetError::new(&error);
        let mut request = self.agent.post(url);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = request.send(body).map_err(wrong)?;
        let (head, mut body) = response.into_parts();
        let body = body.with_config().limit(most).read_to_vec().map_err(wrong)?;
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}
