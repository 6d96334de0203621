//! Hubs that are busy, slow, or hang up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use craft_store::StoreError;
use craft_store::hub::{Limits, Listener, Repo, RepoId};
use serde_json::json;

use crate::server::{COMMIT, Files, Reply, Request, Server};
use crate::support::Tiny;
use crate::{at, files, sample};

/// The first `n` answers to paths with `part` are `reply`'s.
fn first(
    n: usize,
    part: &'static str,
    reply: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> impl Fn(&Request) -> Reply + Send + Sync + 'static {
    let asked = Arc::new(AtomicUsize::new(0));
    move |r| match r.path.contains(part) && asked.fetch_add(1, Ordering::SeqCst) < n {
        true => reply(r),
        false => files().answer(r),
    }
}

#[test]
fn a_busy_hub_is_asked_again() {
    for status in [429, 500, 502, 503, 504] {
        for part in ["/api/", "/resolve/"] {
            let place = at(first(2, part, move |_| Reply::busy(status, "0")));
            place.get("dir/big.bin").unwrap();
            let asked = place.server.requests();
            assert_eq!(
                asked.iter().filter(|r| r.path.contains(part)).count(),
                3,
                "{status} {part}"
            );
        }
    }
    // Hanging up without a word, for the list and for a file.
    for part in ["/api/", "/resolve/"] {
        at(first(2, part, |_| Reply::default())).get("dir/big.bin").unwrap();
        let cut = |r: &Request| Reply { cut: Some(10), ..files().answer(r) };
        at(first(2, part, cut)).get("dir/big.bin").unwrap();
    }
}

#[test]
fn what_the_hub_asks_for_is_waited_for_within_bounds() {
    let start = Instant::now();
    at(first(1, "/resolve/", |_| Reply::busy(429, "1"))).get("small.json").unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    // A date that is past is no wait; one far ahead is not waited for.
    let past = "Sun, 06 Nov 1994 08:49:37 GMT";
    at(first(2, "/api/", move |_| Reply::busy(503, past))).get("small.json").unwrap();
    for far in ["100000", "Fri, 31 Dec 2117 23:59:59 GMT"] {
        let start = Instant::now();
        let place = at(move |_| Reply::busy(429, far));
        place.fails("small.json", &["429", "wants", "of waiting", "try again later"]);
        assert!(start.elapsed() < Duration::from_secs(1));
        assert_eq!(place.server.requests().len(), 1);
    }
    // It ends.
    let place = at(|_| Reply::busy(503, "0"));
    place.fails("small.json", &["503", "asked 6 times", "try again later"]);
    assert_eq!(place.server.requests().len(), 6);
    // Refusals are not asked again.
    let place = at(|_| Reply::refuse(403, "GatedRepo"));
    place.fails("small.json", &["gated"]);
    assert_eq!(place.server.requests().len(), 1);
}

fn short(limits: Limits) -> Limits {
    let time = Duration::from_millis(700);
    Limits { head: time, window: time, least: 700, list: Duration::from_secs(1), ..limits }
}

#[test]
fn what_does_not_come_is_not_waited_for() {
    let ends = |reply: fn(Reply) -> Reply, part: &'static str, words: &[&str]| {
        let start = Instant::now();
        let mut place = at(move |r| match r.path.contains(part) {
            true => reply(files().answer(r)),
            false => files().answer(r),
        });
        place.limits = short(place.limits);
        place.fails("dir/big.bin", words);
        assert!(start.elapsed() < Duration::from_secs(30), "{part} {:?}", start.elapsed());
    };
    let long = Duration::from_secs(60);
    for part in ["/api/", "/resolve/"] {
        // Nothing after some bytes.
        ends(|r| Reply { pause: Some((50, Duration::from_secs(60))), ..r }, part, &["too slow"]);
        // A byte now and then.
        ends(|r| Reply { pause: Some((1, Duration::from_millis(50))), ..r }, part, &["too slow"]);
        // The same in the head.
        let words = ["too slow", "HF_HUB_DOWNLOAD_TIMEOUT"];
        ends(|r| Reply { slow_head: Some(Duration::from_millis(100)), ..r }, part, &words);
    }
    // A body without end.
    ends(|r| Reply { endless: true, ..r }, "/resolve/", &["longer than the 300000 bytes"]);
    // A list without end that brings enough for ever.
    ends(
        |r| Reply { endless: true, pause: Some((100, Duration::from_millis(20))), ..r },
        "/api/",
        &["its list of files is not there after 1 s"],
    );
    // What came stays, and is said.
    let mut place = at(move |r| match r.path.contains("/resolve/") {
        true => Reply { pause: Some((100_000, long)), ..files().answer(r) },
        false => files().answer(r),
    });
    place.limits = short(place.limits);
    place.fails("dir/big.bin", &["breaks off after 200000 of 300000 bytes", "goes on from there"]);
}

/// A slow line is no reason to give up.
#[test]
fn what_comes_slowly_comes() {
    let mut place = at(|r| match r.path.contains("/resolve/") {
        true => Reply { pause: Some((15_000, Duration::from_millis(100))), ..files().answer(r) },
        false => files().answer(r),
    });
    place.limits.window = Duration::from_millis(700);
    place.limits.least = 700;
    place.get("dir/big.bin").unwrap();
}

/// A listener whose user has pressed Ctrl-C.
struct Stopping(Instant);

impl Listener for Stopping {
    fn start(&mut self, _: u64) {}
    fn advance(&mut self, _: u64) {}
    fn note(&mut self, _: &str) {}
    fn stopped(&self) -> bool {
        self.0.elapsed() > Duration::from_millis(300)
    }
}

#[test]
fn the_user_can_stop_waiting() {
    let long = Duration::from_secs(60);
    let id = RepoId::parse("owner/name").unwrap();
    for reply in [
        |_: &Request| Reply::busy(429, "60"),
        |r: &Request| Reply { pause: Some((5, Duration::from_secs(60))), ..files().answer(r) },
        |r: &Request| Reply { slow_head: Some(Duration::from_secs(60)), ..files().answer(r) },
    ] {
        let mut place = at(reply);
        (place.limits.head, place.limits.window) = (long, long);
        let start = Instant::now();
        let error = Repo::open(&place.settings(), &id, true, &mut Stopping(start)).unwrap_err();
        assert!(matches!(error, StoreError::Stopped), "{error}");
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn a_list_of_half_a_million_files_is_read() {
    let entries: Vec<String> = (0..500_000)
        .map(|i| format!(r#"{{"rfilename":"data/{i:06}.bin","size":3,"blobId":"{i:040x}"}}"#))
        .chain([json!({"rfilename": "a.json", "size": 3, "blobId": crate::SMALL.1}).to_string()])
        .collect();
    let list = format!(r#"{{"sha":"{COMMIT}","siblings":[{}]}}"#, entries.join(","));
    let mut all = Files::default();
    all.0.insert("a.json".to_owned(), crate::SMALL.0.to_vec());
    let place = at(move |r| match r.path.contains("/api/") {
        true => Reply::ok(list.clone()),
        false => all.answer(r),
    });
    let start = Instant::now();
    let repo = place.open().unwrap();
    assert_eq!(repo.files.len(), 500_001);
    repo.fetch(&["a.json".to_owned()], &mut crate::Counter::default()).unwrap();
    assert!(start.elapsed() < Duration::from_secs(20));
}

/// The program waits, says so, and goes on; a whole copy does where the hub stays busy.
#[test]
fn craft_waits_for_a_busy_hub() {
    let tiny = Tiny::new();
    let all = Files::of_folder(&tiny.path("model"));
    let asked = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let files = all.clone();
    let hub = Server::new(move |r| {
        let file = r.path.ends_with("vae/config.json");
        let n = asked[usize::from(file)].fetch_add(1, Ordering::SeqCst);
        match (file, n) {
            (true, 0) => Reply::busy(503, "1"),
            (false, 0) => Reply::busy(429, "1"),
            _ => files.answer(r),
        }
    });
    let (code, text) = sample(&tiny, "owner/name", &hub.address, false);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("429") && text.contains("503") && text.contains("asking again"),
        "{text}"
    );
    let hub = Server::new(|_| Reply::busy(503, "0"));
    let (code, text) = sample(&tiny, "owner/name", &hub.address, false);
    assert!(code == 0 && text.contains("the cached copy of commit"), "{text}");
    let (code, text) = sample(&tiny, "other/name", &hub.address, false);
    assert!(
        code == 3 && text.contains("asked 6 times") && text.contains("go online once"),
        "{text}"
    );
    assert!(!text.contains("HF_HUB_OFFLINE"), "{text}");
}

/// Ctrl-C ends the waiting of a run, too, which otherwise saves its state first.
#[test]
#[cfg(unix)]
fn an_interrupted_run_waits_no_longer() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let tiny = Tiny::new();
    let hub = Server::new(|_| Reply::busy(429, "60"));
    let recipe = std::fs::read_to_string(tiny.path("recipe.toml")).unwrap();
    tiny.write("hub.toml", recipe.replace("path = \"model\"", "path = \"owner/name\""));
    let mut child = Command::new(env!("CARGO_BIN_EXE_craft"))
        .args(["run", "hub.toml", "--out", "out"])
        .current_dir(tiny.path("."))
        .env("HF_HOME", tiny.path("hf"))
        .env("HF_ENDPOINT", &hub.address)
        .env_remove("HF_HUB_OFFLINE")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("asking again in 60 s")));
    let start = Instant::now();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(start.elapsed() < Duration::from_secs(10));
}
