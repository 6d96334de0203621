//! A program that is asked line by line.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::text::{head, tail};

/// Longest accepted line of an answer, in bytes.
const MAX_LINE: u64 = 1 << 20;
/// How much is kept of what the program writes to standard error, in bytes.
const KEPT: usize = 2048;
/// Time between looks at whether the program still lives.
const LOOK: Duration = Duration::from_millis(50);
/// Time that an ending program has to end.
const GRACE: Duration = Duration::from_secs(2);

/// What the program wrote.
enum Output {
    Line(String),
    Wrong(String),
    End,
}

/// A running program with lines in and lines out. Killed, with the programs that it started in its
/// process group, when dropped.
pub(crate) struct Process {
    child: Child,
    lines_in: Option<Sender<String>>,
    lines_out: Receiver<Output>,
    errors: Arc<Mutex<Vec<u8>>>,
    /// Whether it has answered before.
    pub(crate) answered: bool,
    killed: bool,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Result<Self, String> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(command, 0);
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child =
            command.spawn().map_err(|error| format!("`{program}` cannot be started ({error})"))?;
        let (lines_in, requests) = channel::<String>();
        if let Some(mut stdin) = child.stdin.take() {
            // In a thread of its own: a program that does not read cannot hold up the run.
            thread::spawn(move || {
                while let Ok(line) = requests.recv() {
                    if stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush()).is_err() {
                        break;
                    }
                }
            });
        }
        let (found, lines_out) = sync_channel(4);
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || read_lines(stdout, &found));
        }
        let errors = Arc::new(Mutex::new(Vec::new()));
        if let Some(stderr) = child.stderr.take() {
            let errors = Arc::clone(&errors);
            thread::spawn(move || keep_tail(stderr, &errors));
        }
        Ok(Self {
            child,
            lines_in: Some(lines_in),
            lines_out,
            errors,
            answered: false,
            killed: false,
        })
    }

    /// Sends a line and waits for one. After an error the program is not to be used any more.
    pub(crate) fn ask(&mut self, line: &str, timeout: Duration) -> Result<String, String> {
        let deadline = Instant::now() + timeout;
        match self.lines_out.try_recv() {
            Ok(Output::Line(early)) => {
                return Err(format!("it wrote a line too many: `{}`", head(&early)));
            }
            Ok(Output::Wrong(reason)) => return Err(reason),
            Ok(Output::End) => return Err(self.ended()),
            Err(_) => {}
        }
        if let Some(lines_in) = &self.lines_in {
            // A program that has ended shows in its output.
            let _ = lines_in.send(format!("{line}\n"));
        }
        let mut ended = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines_out.recv_timeout(left.min(LOOK)) {
                Ok(Output::Line(answer)) => {
                    self.answered = true;
                    return Ok(answer);
                }
                Ok(Output::Wrong(reason)) => return Err(reason),
                Ok(Output::End) | Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
                // It has ended, and a program that it started keeps its output open.
                Err(RecvTimeoutError::Timeout) if ended => return Err(self.ended()),
                Err(RecvTimeoutError::Timeout) => ended = self.has_ended(),
            }
            if left.is_zero() {
                self.kill();
                return Err(self.with_errors(format!(
                    "no answer within {} seconds; the process was ended",
                    timeout.as_secs_f64()
                )));
            }
        }
    }

    /// How the program ended, with its last words.
    fn ended(&mut self) -> String {
        let end = Instant::now() + GRACE;
        while !self.has_ended() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        let by_itself = self.has_ended();
        let status = self.kill();
        let how = match status {
            Some(status) if by_itself => format!("the process ended ({status})"),
            _ => "the process closed its output".to_owned(),
        };
        self.with_errors(format!("{how} before it answered"))
    }

    /// Appends what the program wrote to standard error.
    fn with_errors(&self, reason: String) -> String {
        // Its last words may still be on their way.
        thread::sleep(Duration::from_millis(20));
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let text = tail(&String::from_utf8_lossy(&errors));
        if text.is_empty() { reason } else { format!("{reason}; standard error: {text}") }
    }

    /// Whether the program has ended. Does not take its status, so that its number stays its own.
    #[cfg(unix)]
    fn has_ended(&mut self) -> bool {
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            Some(pid) if !self.killed => !matches!(waitid(WaitId::Pid(pid), options), Ok(None)),
            _ => true,
        }
    }

    #[cfg(not(unix))]
    fn has_ended(&mut self) -> bool {
        self.killed || !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends the program and its process group.
    fn kill(&mut self) -> Option<std::process::ExitStatus> {
        if !self.killed {
            self.killed = true;
            #[cfg(unix)]
            {
                use rustix::process::{Pid, Signal, kill_process_group};
                // Before its status is taken: until then no other process can have its number.
                if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
                    let _ = kill_process_group(pid, Signal::KILL);
                }
            }
            let _ = self.child.kill();
        }
        self.child.wait().ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of its input tells a program to end.
        self.lines_in = None;
        if !self.killed {
            let end = Instant::now() + GRACE;
            while !self.has_ended() && Instant::now() < end {
                thread::sleep(Duration::from_millis(5));
            }
        }
        self.kill();
    }
}

/// Hands lines on until the output ends or is no text.
fn read_lines(stdout: impl Read, found: &SyncSender<Output>) {
    let mut reader = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        let read = reader.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut line);
        let output = match read {
            Ok(0) | Err(_) => Output::End,
            Ok(n) if n as u64 > MAX_LINE => {
                Output::Wrong(format!("it wrote a line of more than {MAX_LINE} bytes"))
            }
            Ok(_) => match String::from_utf8(line) {
                Ok(line) if line.trim().is_empty() => continue,
                Ok(line) => Output::Line(line.trim().to_owned()),
                Err(_) => Output::Wrong("it wrote a line that is not UTF-8".to_owned()),
            },
        };
        let last = !matches!(output, Output::Line(_));
        if found.send(output).is_err() || last {
            return;
        }
    }
}

/// Reads to the end and keeps the last bytes.
fn keep_tail(mut stderr: impl Read, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stderr.read(&mut buffer) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&buffer[..n]);
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
    }
}
