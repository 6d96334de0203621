//! Models by their names on the hub, against servers on this machine.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "hub/patience.rs"]
mod patience;
#[path = "support/hub.rs"]
mod server;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use craft_store::hub::{Limits, Listener, Repo, RepoId, Settings, provenance};
use craft_store::{StoreError, image};
use server::{COMMIT, Files, Reply, Request, SMALL, Server, rest};
use support::Tiny;
use tempfile::TempDir;

#[derive(Default)]
struct Counter {
    total: u64,
    done: u64,
}

impl Listener for Counter {
    fn start(&mut self, bytes: u64) {
        self.total += bytes;
    }
    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
    }
    fn note(&mut self, _: &str) {}
}

/// A cache of its own and a server.
struct Place {
    cache: TempDir,
    server: Server,
    limits: Limits,
}

fn at(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Place {
    let limits = Limits { wait: Duration::from_millis(2), ..Limits::default() };
    Place { cache: tempfile::tempdir().unwrap(), server: Server::new(answer), limits }
}

impl Place {
    fn settings(&self) -> Settings {
        Settings {
            endpoint: self.server.address.clone(),
            cache: self.cache.path().join("hub"),
            token: Some("secret".to_owned()),
            offline: false,
            limits: self.limits,
        }
    }

    fn open(&self) -> Result<Repo, StoreError> {
        let id = RepoId::parse("owner/name").unwrap();
        Repo::open(&self.settings(), &id, true, &mut Counter::default())
    }

    /// Fetches a file of `owner/name` and returns its path.
    fn get(&self, path: &str) -> Result<PathBuf, StoreError> {
        let repo = self.open()?;
        repo.fetch(&[path.to_owned()], &mut Counter::default())?;
        Ok(repo.dir.join(path))
    }

    #[track_caller]
    fn fails(&self, path: &str, words: &[&str]) {
        let error = self.get(path).unwrap_err();
        assert!(error.is_bad_input());
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
        assert!(!text.contains("secret"), "{text}");
    }

    fn blobs(&self) -> Vec<String> {
        let dir = self.cache.path().join("hub/models--owner--name/blobs");
        let mut names: Vec<String> = fs::read_dir(dir)
            .map(|dir| dir.map(|e| e.unwrap().file_name().into_string().unwrap()).collect())
            .unwrap_or_default();
        names.sort();
        names
    }
}

fn files() -> Files {
    let big: Vec<u8> = (0..300_000u32).map(|i| ((i * 7919) >> 5) as u8).collect();
    Files([("dir/big.bin".to_owned(), big), ("small.json".to_owned(), SMALL.0.to_vec())].into())
}

#[test]
fn a_file_comes_once_and_lies_as_the_python_library_puts_it() {
    let place = at(|r| files().answer(r));
    let id = RepoId::parse("owner/name@v1").unwrap();
    let repo = Repo::open(&place.settings(), &id, true, &mut Counter::default()).unwrap();
    assert_eq!(repo.commit, COMMIT);
    let mut counter = Counter::default();
    let both = ["dir/big.bin".to_owned(), "small.json".to_owned()];
    repo.fetch(&both, &mut counter).unwrap();
    assert_eq!((counter.total, counter.done), (300_003, 300_003));
    let root = place.cache.path().join("hub/models--owner--name");
    assert_eq!(fs::read_to_string(root.join("refs/v1")).unwrap(), COMMIT);
    let snapshot = root.join("snapshots").join(COMMIT);
    assert_eq!(snapshot, repo.dir);
    assert_eq!(fs::read(snapshot.join("dir/big.bin")).unwrap(), files().0["dir/big.bin"]);
    if cfg!(unix) {
        let link = fs::read_link(snapshot.join("dir/big.bin")).unwrap();
        assert!(link.starts_with("../../../blobs"), "{}", link.display());
    }
    assert!(place.blobs().contains(&SMALL.1.to_owned()), "small files have git's name");
    assert_eq!(provenance(&snapshot), Some(("owner/name".to_owned(), COMMIT.to_owned())));
    assert_eq!(provenance(&root), None);

    place.server.requests();
    repo.fetch(&both, &mut counter).unwrap();
    assert!(place.server.requests().is_empty(), "what is there is not asked for again");
    let cached = Repo::cached(&place.settings(), &id).unwrap().unwrap();
    assert!(cached.has("dir/big.bin") && cached.commit == COMMIT);
    assert!(
        Repo::cached(&place.settings(), &RepoId::parse("owner/name").unwrap()).unwrap().is_none()
    );
}

#[test]
fn refusals_say_what_to_do() {
    for (status, code, words) in [
        (401, "RepoNotFound", &["HF_TOKEN", "owner/name", "no such repository"][..]),
        (403, "GatedRepo", &["gated", "accept", "HF_TOKEN"]),
        (403, "", &["gated or not yours"]),
        (404, "RepoNotFound", &["no such repository", "owner/name@revision"]),
        (404, "RevisionNotFound", &["no revision `main`"]),
        (500, "", &["500", "try again later"]),
    ] {
        at(move |_| Reply::refuse(status, code)).fails("small.json", words);
    }
    // A list without the file's repository, and answers of no hub.
    at(|_| Reply::ok("<html>")).fails("small.json", &["not JSON", "HF_ENDPOINT"]);
    at(|_| Reply::ok("{}")).fails("small.json", &["no commit"]);
    let hidden = |r: &Request| match r.path.contains("/resolve/") {
        true => Reply::refuse(404, "EntryNotFound"),
        false => files().list(),
    };
    at(hidden).fails("small.json", &["no file", "small.json"]);
}

#[test]
fn what_comes_damaged_is_not_kept() {
    let serve = |change: fn(&mut Vec<u8>)| {
        at(move |r| match r.path.contains("/resolve/") {
            true => {
                let mut bytes = files().0["dir/big.bin"].clone();
                change(&mut bytes);
                Reply::ok(bytes)
            }
            false => files().list(),
        })
    };
    let place = serve(|b| b[77] ^= 1);
    place.fails("dir/big.bin", &["dir/big.bin", "hash", "expected", "run the same command again"]);
    assert!(place.blobs().is_empty());
    let place = serve(|b| b.push(1));
    place.fails("dir/big.bin", &["longer than the 300000 bytes"]);
    assert!(place.blobs().is_empty());
    // A short body stays for the next time.
    let place = serve(|b| b.truncate(1000));
    place.fails("dir/big.bin", &["breaks off after 1000 of 300000 bytes", "goes on from there"]);
    let left = place.blobs();
    assert!(left.len() == 1 && left[0].ends_with(".incomplete"), "{left:?}");
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    // The connection ends after every 100,000 bytes.
    let place = at(|r| {
        let reply = files().answer(r);
        Reply { cut: r.path.contains("big").then_some(100_000), ..reply }
    });
    let path = place.get("dir/big.bin").unwrap();
    assert_eq!(fs::read(path).unwrap(), files().0["dir/big.bin"]);
    let ranges: Vec<String> = place
        .server
        .requests()
        .into_iter()
        .filter(|r| r.path.contains("big"))
        .map(|r| r.headers.get("range").cloned().unwrap_or_default())
        .collect();
    assert_eq!(ranges, ["", "bytes=100000-", "bytes=200000-"]);

    // What an earlier process left is used, also when a server knows no ranges, and when it is wrong.
    for (left, good) in [(&files().0["dir/big.bin"][..5000], true), (&[9u8; 5000][..], false)] {
        for ranges in [true, false] {
            let place = at(move |r| match (r.path.contains("/resolve/"), ranges) {
                (true, false) => Reply::ok(files().0["dir/big.bin"].clone()),
                _ => files().answer(r),
            });
            let blobs = place.cache.path().join("hub/models--owner--name/blobs");
            fs::create_dir_all(&blobs).unwrap();
            let hash = craft_store::hash::sha256_bytes(&files().0["dir/big.bin"]);
            fs::write(blobs.join(format!("{hash}.incomplete")), left).unwrap();
            if good || !ranges {
                place.get("dir/big.bin").unwrap();
                assert_eq!(place.blobs(), [hash]);
            } else {
                place.fails("dir/big.bin", &["hash"]);
                assert!(place.blobs().is_empty());
            }
            let asked = place.server.requests().pop().unwrap();
            assert_eq!(asked.headers["range"], "bytes=5000-");
        }
    }
}

#[test]
fn the_token_stays_with_the_hub() {
    let elsewhere = Server::new(|r| rest(&files().0["dir/big.bin"], r));
    let other = format!("{}/cdn/big", elsewhere.address);
    let place = at(move |r| match r.path.as_str() {
        "/cdn/small" => Reply::ok(SMALL.0),
        path if path.ends_with("small.json") => Reply::redirect("/cdn/small"),
        path if path.ends_with("big.bin") => Reply::redirect(other.clone()),
        _ => files().answer(r),
    });
    place.get("small.json").unwrap();
    place.get("dir/big.bin").unwrap();
    for request in place.server.requests() {
        assert_eq!(request.headers["authorization"], "Bearer secret", "{}", request.path);
    }
    let away = elsewhere.requests();
    assert_eq!(away.len(), 1);
    assert!(!away[0].headers.contains_key("authorization"));
    at(|r| Reply::redirect(r.path.clone())).fails("small.json", &["redirects more than"]);
}

#[test]
fn two_processes_fetch_a_file_once() {
    let served = std::sync::Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    let place = at(move |r| {
        if r.path.contains("/resolve/") {
            count.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        files().answer(r)
    });
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| place.get("dir/big.bin").unwrap());
        }
    });
    assert_eq!(served.load(Ordering::SeqCst), 1);
}

/// `craft sample` with the hub at an address.
fn sample(tiny: &Tiny, model: &str, endpoint: &str, offline: bool) -> (i32, String) {
    let args = [
        "sample",
        "--model",
        model,
        "--prompt",
        "a red circle",
        "--steps",
        "2",
        "--output",
        "a.png",
    ];
    let mut command = tiny.craft(&args);
    command.env("HF_ENDPOINT", endpoint).env("HF_HUB_OFFLINE", if offline { "1" } else { "0" });
    let output = command.output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn craft_samples_from_a_repository_and_from_its_cached_copy() {
    let tiny = Tiny::new();
    let mut files = Files::of_folder(&tiny.path("model"));
    files.0.retain(|path, _| !path.starts_with("rewards"));
    // What is not needed is not fetched: another layout of the weights, files of other tools.
    let unet = files.0["unet/diffusion_pytorch_model.safetensors"].clone();
    files.0.insert("unet/diffusion_pytorch_model.bin".into(), unet.clone());
    files.0.insert("unet/diffusion_pytorch_model.non_ema.safetensors".into(), unet);
    files.0.insert("v1.ckpt".into(), vec![1; 100]);
    files.0.insert("safety_checker/model.safetensors".into(), vec![1; 100]);
    let hub = Server::new(move |r| files.answer(r));
    let nowhere = "http://127.0.0.1:9";

    let (code, text) = sample(&tiny, "owner/name", nowhere, false);
    assert!(
        code == 3 && text.contains("does not answer") && text.contains("no copy is in the cache"),
        "{text}"
    );
    let (code, text) = sample(&tiny, "owner/name", &hub.address, true);
    assert!(code == 3 && text.contains("HF_HUB_OFFLINE is set"), "{text}");
    assert!(hub.requests().is_empty(), "offline means offline");

    let (code, text) = sample(&tiny, "owner/name", &hub.address, false);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(COMMIT), "{text}");
    let asked: Vec<String> = hub.requests().into_iter().map(|r| r.path).collect();
    assert!(asked.iter().any(|p| p.ends_with("unet/diffusion_pytorch_model.safetensors")));
    for unwanted in [".bin", "non_ema", ".ckpt", "safety_checker"] {
        assert!(!asked.iter().any(|p| p.contains(unwanted)), "{unwanted}");
    }
    let drawn = image::read(&tiny.path("a.png")).unwrap();
    tiny.expect(
        &[
            "sample",
            "--model",
            "model",
            "--prompt",
            "a red circle",
            "--steps",
            "2",
            "--output",
            "b.png",
        ],
        0,
        &[],
    );
    assert_eq!(drawn, image::read(&tiny.path("b.png")).unwrap());

    // Without network, offline, and pinned to the commit, when not even the hub is asked.
    assert_eq!(sample(&tiny, "owner/name", nowhere, false).0, 0);
    assert_eq!(sample(&tiny, "owner/name", nowhere, true).0, 0);
    assert_eq!(sample(&tiny, &format!("owner/name@{COMMIT}"), &hub.address, false).0, 0);
    assert!(hub.requests().is_empty());
    // A copy that lacks a network is no copy.
    let snapshot = tiny.path("hf/hub/models--owner--name/snapshots").join(COMMIT);
    fs::remove_dir_all(snapshot.join("vae")).unwrap();
    let (code, text) = sample(&tiny, "owner/name", nowhere, true);
    assert!(
        code == 3 && text.contains("not complete") && text.contains("vae/ is missing"),
        "{text}"
    );
    assert_eq!(sample(&tiny, "owner/name", &hub.address, false).0, 0, "it is completed");
    // A folder of the same name wins.
    support::copy(&tiny.path("model"), &tiny.path("owner/name"));
    hub.requests();
    assert_eq!(sample(&tiny, "owner/name", &hub.address, false).0, 0);
    assert!(hub.requests().is_empty());
}

#[test]
fn a_repository_of_another_architecture_is_not_fetched() {
    let tiny = Tiny::new();
    let index = br#"{"_class_name": "FluxPipeline"}"#.to_vec();
    let files = Files(
        [("model_index.json".into(), index), ("unet/x.safetensors".into(), vec![0; 9])].into(),
    );
    let hub = Server::new(move |r| files.answer(r));
    let (code, text) = sample(&tiny, "owner/name", &hub.address, false);
    assert!(code == 3 && text.contains("FluxPipeline") && text.contains("SDXL base"), "{text}");
    assert!(!hub.requests().iter().any(|r| r.path.contains("unet")));
    let files = Files([("model.safetensors".into(), vec![0; 9])].into());
    let hub = Server::new(move |r| files.answer(r));
    let (code, text) = sample(&tiny, "owner/name", &hub.address, false);
    assert!(
        code == 3 && text.contains("owner/name/FILE") && text.contains("model.safetensors"),
        "{text}"
    );
    let (code, text) = sample(&tiny, "owner/name/other.ckpt", &hub.address, false);
    assert!(code == 3 && text.contains("no such file"), "{text}");
}

#[test]
fn a_run_keeps_the_commit_it_began_with() {
    let tiny = Tiny::new();
    let files = Files::of_folder(&tiny.path("model"));
    let hub = Server::new(move |r| files.answer(r));
    let recipe = fs::read_to_string(tiny.path("recipe.toml")).unwrap();
    tiny.write("hub.toml", recipe.replace("path = \"model\"", "path = \"owner/name\""));
    let run = |endpoint: &str| {
        let mut command = tiny.craft(&["run", "hub.toml", "--out", "out"]);
        command.env("HF_ENDPOINT", endpoint).env("HF_HUB_OFFLINE", "0");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&hub.address);
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(tiny.path("out/run.json")).unwrap()).unwrap();
    assert_eq!(json["model"]["path"], "owner/name");
    assert_eq!(json["model"]["commit"], COMMIT);
    assert!(Path::new(&tiny.path("out/aligned/unet/config.json")).is_file());
    // The branch moves on; the run does not, and needs the hub no more.
    let refs = tiny.path("hf/hub/models--owner--name/refs/main");
    fs::write(refs, "f".repeat(40)).unwrap();
    hub.requests();
    run("http://127.0.0.1:9");
    assert!(hub.requests().is_empty());
}
