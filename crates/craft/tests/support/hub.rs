//! A hub on this machine: files of one repository, and ways to misbehave.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use craft_store::hash::sha256_bytes;
use serde_json::json;

/// The commit of every revision.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// `{}` and a line end, and git's name of it.
pub const SMALL: (&[u8], &str) = (b"{}\n", "0967ef424bce6791893e9a57bb952f80fd536e93");

/// What was asked.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

/// What is answered.
#[derive(Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    pub cut: Option<usize>,
    /// After so many bytes of the body, such a pause; again and again.
    pub pause: Option<(usize, Duration)>,
    /// The same between the bytes of the head.
    pub slow_head: Option<Duration>,
    /// The body never ends; it says nothing of its length.
    pub endless: bool,
}

impl Reply {
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }
    pub fn refuse(status: u16, code: &str) -> Self {
        Self { status, headers: vec![("x-error-code", code.to_owned())], ..Self::default() }
    }
    /// A refusal for now.
    pub fn busy(status: u16, retry_after: &str) -> Self {
        Self { status, headers: vec![("retry-after", retry_after.to_owned())], ..Self::default() }
    }
    pub fn redirect(to: impl Into<String>) -> Self {
        Self { status: 302, headers: vec![("location", to.into())], ..Self::default() }
    }
}

/// A server that runs until the test's process ends.
pub struct Server {
    pub address: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn new(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (answer, seen) = (Arc::new(answer), log.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, seen) = (answer.clone(), seen.clone());
                std::thread::spawn(move || drop(serve(stream, &*answer, &seen)));
            }
        });
        Self { address, log }
    }

    /// What was asked since the last call.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

fn serve(
    mut stream: TcpStream,
    answer: &dyn Fn(&Request) -> Reply,
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let request = Request { path, headers };
    log.lock().unwrap().push(request.clone());
    let reply = answer(&request);
    if reply.status == 0 {
        // Hangs up without a word.
        return Ok(());
    }
    let mut head = format!("HTTP/1.1 {} Word\r\n", reply.status);
    if !reply.endless {
        head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let head = format!("{head}connection: close\r\n\r\n");
    match reply.slow_head {
        None => stream.write_all(head.as_bytes())?,
        Some(pause) => slowly(&mut stream, head.as_bytes(), 1, pause)?,
    }
    let end = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
    loop {
        match reply.pause {
            None => stream.write_all(&reply.body[..end])?,
            Some((bytes, pause)) => slowly(&mut stream, &reply.body[..end], bytes, pause)?,
        }
        if !reply.endless {
            return Ok(());
        }
    }
}

fn slowly(
    stream: &mut TcpStream,
    data: &[u8],
    bytes: usize,
    pause: Duration,
) -> std::io::Result<()> {
    for piece in data.chunks(bytes) {
        stream.write_all(piece)?;
        std::thread::sleep(pause);
    }
    Ok(())
}

/// Files by path, as a hub lists and serves them.
#[derive(Clone, Default)]
pub struct Files(pub BTreeMap<String, Vec<u8>>);

impl Files {
    pub fn of_folder(dir: &Path) -> Self {
        let mut files = Self::default();
        files.add(dir, "");
        files
    }

    fn add(&mut self, dir: &Path, prefix: &str) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
            if path.is_dir() {
                self.add(&path, &format!("{name}/"));
            } else {
                self.0.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }

    /// The answer to `/api/models/owner/name/revision/…`.
    pub fn list(&self) -> Reply {
        let entry = |(path, bytes): (&String, &Vec<u8>)| {
            if bytes == SMALL.0 {
                return json!({ "rfilename": path, "size": bytes.len(), "blobId": SMALL.1 });
            }
            let lfs = json!({ "sha256": sha256_bytes(bytes), "size": bytes.len() });
            json!({ "rfilename": path, "size": bytes.len(), "blobId": "00", "lfs": lfs })
        };
        let siblings: Vec<_> = self.0.iter().map(entry).collect();
        Reply::ok(json!({ "sha": COMMIT, "siblings": siblings }).to_string())
    }

    /// A file, or the rest of it from the first byte that is asked for.
    pub fn file(&self, request: &Request) -> Option<Reply> {
        let path = request.path.split(&format!("/resolve/{COMMIT}/")).nth(1)?;
        Some(rest(self.0.get(path)?, request))
    }

    /// The whole hub.
    pub fn answer(&self, request: &Request) -> Reply {
        if request.path.starts_with("/api/models/owner/name/revision/") {
            return self.list();
        }
        self.file(request).unwrap_or_else(|| Reply::refuse(404, "RepoNotFound"))
    }
}

/// A content from the first byte asked for.
pub fn rest(bytes: &[u8], request: &Request) -> Reply {
    let from =
        request.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-'));
    let Some(from) = from.and_then(|n| n.parse::<usize>().ok()) else { return Reply::ok(bytes) };
    let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
    let headers = vec![("content-range", range)];
    Reply { status: 206, headers, body: bytes[from..].to_vec(), ..Reply::default() }
}
