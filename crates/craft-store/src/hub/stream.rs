//! An answer that comes in a thread of its own, so that whoever waits for it can stop at any moment and
//! sees whether anything comes at all.

use std::io::{ErrorKind, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::http::{HeaderMap, Request, StatusCode};

use super::Limits;

/// Between two looks at whether to stop.
const TICK: Duration = Duration::from_millis(100);
/// Bytes of a body that are handed on at once, and how many such pieces may wait.
const PIECE: usize = 1 << 16;
const WAITING: usize = 8;

/// Why nothing more comes.
#[derive(Debug)]
pub(super) enum Trouble {
    /// There is no connection.
    Down(String),
    /// The connection broke.
    Broke(String),
    /// Too little came for too long.
    Slow(String),
    /// The user wants to stop.
    Stopped,
}

enum Message {
    Head(StatusCode, HeaderMap),
    Data(Vec<u8>),
    Trouble(Trouble),
}

/// An answer whose head is there.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    messages: Receiver<Message>,
    limits: Limits,
    /// When the present window began, and what came in it.
    window: (Instant, u64),
}

impl Stream {
    /// Asks, and waits for the head of the answer.
    pub(super) fn open(
        agent: &Agent,
        request: Request<()>,
        limits: Limits,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Self, Trouble> {
        let (sender, messages) = sync_channel(WAITING);
        let agent = agent.clone();
        // It ends by itself when nobody listens any more, or by the agent's own limits.
        std::thread::spawn(move || answer(&agent, request, &sender));
        let end = Instant::now() + limits.head;
        loop {
            if stopped() {
                return Err(Trouble::Stopped);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seconds = limits.head.as_secs_f64();
                return Err(Trouble::Slow(format!("no answer in {seconds} s")));
            }
            match messages.recv_timeout(left.min(TICK)) {
                Ok(Message::Head(status, headers)) => {
                    let window = (Instant::now(), 0);
                    return Ok(Self { status, headers, messages, limits, window });
                }
                Ok(Message::Trouble(trouble)) => return Err(trouble),
                Ok(Message::Data(_)) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(ended()),
            }
        }
    }

    /// The next bytes of the body; none at its end.
    pub(super) fn next(&mut self, stopped: &dyn Fn() -> bool) -> Result<Option<Vec<u8>>, Trouble> {
        loop {
            if stopped() {
                return Err(Trouble::Stopped);
            }
            let message = self.messages.recv_timeout(TICK);
            let (since, mut bytes) = self.window;
            if let Ok(Message::Data(data)) = &message {
                bytes += data.len() as u64;
            }
            self.window.1 = bytes;
            if since.elapsed() >= self.limits.window {
                let ends = match &message {
                    Ok(Message::Data(data)) => data.is_empty(),
                    Ok(Message::Trouble(_)) | Err(RecvTimeoutError::Disconnected) => true,
                    _ => false,
                };
                if bytes < self.limits.least && !ends {
                    let seconds = self.limits.window.as_secs_f64();
                    return Err(Trouble::Slow(format!(
                        "{bytes} bytes in {seconds} s, expected at least {}",
                        self.limits.least
                    )));
                }
                self.window = (Instant::now(), 0);
            }
            match message {
                Ok(Message::Data(data)) if data.is_empty() => return Ok(None),
                Ok(Message::Data(data)) => return Ok(Some(data)),
                Ok(Message::Trouble(trouble)) => return Err(trouble),
                Ok(Message::Head(..)) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(ended()),
            }
        }
    }
}

fn ended() -> Trouble {
    Trouble::Broke("the answer ended early".to_owned())
}

/// Sends an answer in pieces; an empty one is its end.
fn answer(agent: &Agent, request: Request<()>, to: &SyncSender<Message>) {
    let response = match agent.run(request) {
        Ok(response) => response,
        Err(error) => {
            drop(to.send(Message::Trouble(trouble(&error))));
            return;
        }
    };
    let (head, body) = response.into_parts();
    if to.send(Message::Head(head.status, head.headers)).is_err() {
        return;
    }
    let mut reader = body.into_reader();
    loop {
        let mut data = vec![0u8; PIECE];
        let message = match reader.read(&mut data) {
            Ok(n) => {
                data.truncate(n);
                Message::Data(data)
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                Message::Trouble(Trouble::Slow(error.to_string()))
            }
            Err(error) => Message::Trouble(Trouble::Broke(error.to_string())),
        };
        let last = !matches!(&message, Message::Data(data) if !data.is_empty());
        if to.send(message).is_err() || last {
            return;
        }
    }
}

fn trouble(error: &ureq::Error) -> Trouble {
    let text = error.to_string();
    match error {
        ureq::Error::Io(io)
            if matches!(
                io.kind(),
                ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
                    | ErrorKind::UnexpectedEof
            ) =>
        {
            Trouble::Broke(text)
        }
        ureq::Error::Protocol(_) => Trouble::Broke(text),
        ureq::Error::Timeout(ureq::Timeout::RecvResponse) => Trouble::Slow(text),
        _ => Trouble::Down(text),
    }
}
