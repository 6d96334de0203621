//! A run in a process of its own that is stopped on the way.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::Tiny;

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a run decides: candidates, scores, selection, weights.
const RESULTS: [&str; 6] = [
    "candidates/candidates.jsonl",
    "candidates/latents.safetensors",
    "rewards/rewards.jsonl",
    "selection/selection.jsonl",
    "aligned/unet/diffusion_pytorch_model.safetensors",
    "evaluation/samples.jsonl",
];

#[track_caller]
pub(crate) fn same_results(a: &Path, b: &Path) {
    for file in RESULTS {
        let read = |dir: &Path| fs::read(dir.join(file)).unwrap();
        assert!(read(a) == read(b), "{file} of {} and {} differ", a.display(), b.display());
    }
}

pub(crate) struct Process {
    child: Child,
    /// What it says.
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(tiny: &Tiny, args: &[&str]) -> Self {
        let log = tiny.path("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_craft"));
        command
            .args(args)
            .current_dir(tiny.path("."))
            .env("CRAFT_POCKET_DIR", tiny.path("model"))
            .env("XDG_CACHE_HOME", tiny.path("cache"))
            .env("HF_HUB_OFFLINE", "1")
            .stdout(File::create(tiny.path("stdout")).unwrap())
            .stderr(File::create(&log).unwrap());
        Self { child: command.spawn().unwrap(), log }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until something holds while the process works.
    #[track_caller]
    pub(crate) fn until(&mut self, holds: impl Fn() -> bool) {
        let begun = Instant::now();
        while !holds() {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended too early: {}", self.log());
            assert!(begun.elapsed() < PATIENCE, "it takes too long: {}", self.log());
            sleep(Duration::from_millis(1));
        }
    }

    /// Sends a signal; whether there was a process to get it.
    pub(crate) fn signal(&mut self, name: &str) -> bool {
        let working = self.child.try_wait().unwrap().is_none();
        let id = self.child.id().to_string();
        working && Command::new("kill").args([name, &id]).status().unwrap().success()
    }

    /// Waits for its end as far as its peak of resident memory shows it; bytes.
    #[cfg(target_os = "linux")]
    pub(crate) fn peak(&mut self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let mut most = 0;
        while self.child.try_wait().unwrap().is_none() {
            let text = fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            most = most.max(kib.unwrap_or(0) * 1024);
            sleep(Duration::from_millis(1));
        }
        most
    }

    /// Waits for its end; the exit code, if it ended by itself.
    #[track_caller]
    pub(crate) fn end(mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end: {}", self.log());
            sleep(Duration::from_millis(1));
        }
    }
}

/// The pictures below a folder, with what tells whether one was written again.
pub(crate) fn pictures(dir: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(pictures(&path));
        } else if path.extension().is_some_and(|e| e == "png") {
            // A temporary file may be gone before it is looked at.
            if let Ok(meta) = fs::metadata(&path) {
                found.insert(path, (meta.ino(), meta.mtime(), meta.mtime_nsec()));
            }
        }
    }
    found
}
