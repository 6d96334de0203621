//! An answer that comes in a thread of its own, so that whoever waits for it can stop at any moment and
//! sees whether anything comes at all.

use std::io::{ErrorKind, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Request, StatusCode};

use crate::client::{Client, NetError};

/// Between two looks at whether to stop.
const TICK: Duration = Duration::from_millis(100);
/// Bytes of a body that are handed on at once, and how many such pieces may wait.
const PIECE: usize = 1 << 16;
const WAITING: usize = 8;

/// How fast an answer has to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Until the head of the answer is there.
    pub head: Duration,
    /// How often it is looked whether enough came.
    pub window: Duration,
    /// Bytes that have to come within a window.
    pub least: u64,
}

/// Why nothing more comes.
#[derive(Debug)]
pub enum Trouble {
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
pub struct Stream {
    /// How it went.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    messages: Receiver<Message>,
    pace: Pace,
    /// When the present window began, and what came in it.
    window: (Instant, u64),
}

impl Stream {
    /// Asks, and waits for the head of the answer; `stopped` is asked several times a second.
    ///
    /// # Errors
    /// When none comes in time, or the user wants to stop.
    pub fn open(
        client: &Client,
        request: Request<()>,
        pace: Pace,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Self, Trouble> {
        let (sender, messages) = sync_channel(WAITING);
        let client = client.clone();
        // It ends by itself when nobody listens any more, or by the client's own bounds.
        std::thread::spawn(move || answer(&client, request, &sender));
        let end = Instant::now() + pace.head;
        loop {
            if stopped() {
                return Err(Trouble::Stopped);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seconds = pace.head.as_secs_f64();
                return Err(Trouble::Slow(format!("no answer in {seconds} s")));
            }
            match messages.recv_timeout(left.min(TICK)) {
                Ok(Message::Head(status, headers)) => {
                    let window = (Instant::now(), 0);
                    return Ok(Self { status, headers, messages, pace, window });
                }
                Ok(Message::Trouble(trouble)) => return Err(trouble),
                Ok(Message::Data(_)) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(ended()),
            }
        }
    }

    /// The next bytes of the body; none at its end.
    ///
    /// # Errors
    /// When it breaks off or is too slow, or the user wants to stop.
    pub fn next(&mut self, stopped: &dyn Fn() -> bool) -> Result<Option<Vec<u8>>, Trouble> {
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
            if since.elapsed() >= self.pace.window {
                let ends = match &message {
                    Ok(Message::Data(data)) => data.is_empty(),
                    Ok(Message::Trouble(_)) | Err(RecvTimeoutError::Disconnected) => true,
                    _ => false,
                };
                if bytes < self.pace.least && !ends {
                    let seconds = self.pace.window.as_secs_f64();
                    return Err(Trouble::Slow(format!(
                        "{bytes} bytes in {seconds} s, expected at least {}",
                        self.pace.least
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
fn answer(client: &Client, request: Request<()>, to: &SyncSender<Message>) {
    let response = match client.run(request) {
        Ok(response) => response,
        Err(error) => {
            drop(to.send(Message::Trouble(error.into())));
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

impl From<NetError> for Trouble {
    fn from(error: NetError) -> Self {
        let text = error.to_string();
        match error {
            NetError::Broke(_) | NetError::Protocol(_) => Self::Broke(text),
            NetError::Late { head: true, .. } => Self::Slow(text),
            _ => Self::Down(text),
        }
    }
}
