//! A run that is killed at any change of the disk, or whose disk is full or fails there: the same command
//! again gives the same files as if nothing had happened.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::files::same_files;
use crate::support::Tiny;

/// A run of every stage in well under a second.
const SMALL: [&str; 16] = [
    "--threads",
    "1",
    "--set",
    "prompts.train_count=2",
    "--set",
    "prompts.eval_count=1",
    "--set",
    "expand.variants=2",
    "--set",
    "generate.steps=1",
    "--set",
    "select.max_samples=2",
    "--set",
    "train.batch=2",
    "--set",
    "train.checkpoint_every=1",
];

/// Names the variable of docs/reliability.md.
const DISK: &str = "CRAFT_TEST_DISK";

fn run(out: &str) -> Vec<&str> {
    [&["run", "recipe.toml", "--out", out][..], &SMALL].concat()
}

/// The changes of the disk that a whole run makes, in order.
fn changes(tiny: &Tiny, args: &[&str]) -> Vec<String> {
    let log = tiny.path("changes.log");
    let done = tiny.craft(args).env(DISK, format!("log={}", log.display())).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect()
}

/// `n` numbers from 1 to `count`, evenly, the first and last among them.
fn points(count: usize, n: usize) -> Vec<usize> {
    (0..n).map(|i| 1 + i * (count - 1) / (n - 1)).collect()
}

/// Calls `work` for each point, on two threads.
fn each(points: &[usize], work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(point) = points.get(next.fetch_add(1, Ordering::SeqCst)) {
                    work(*point);
                }
            });
        }
    });
}

#[test]
fn a_run_killed_at_any_change_of_the_disk_ends_with_the_same_files() {
    let tiny = Tiny::new();
    let count = changes(&tiny, &run("whole")).len();
    assert!(count > 300, "{count}");
    each(&points(count, 36), |at| {
        let out = format!("out-{at}");
        let killed = tiny.craft(&run(&out)).env(DISK, format!("kill@{at}")).output().unwrap();
        assert_eq!(killed.status.code(), None, "at {at} it was not killed");
        // Killed once more, early in what follows.
        if at % 3 == 0 {
            tiny.craft(&run(&out)).env(DISK, format!("kill@{}", 1 + at % 17)).output().unwrap();
        }
        tiny.expect(&run(&out), 0, &[]);
        same_files(&tiny.path("whole"), &tiny.path(&out), &format!("killed at {at}"));
        fs::remove_dir_all(tiny.path(&out)).unwrap();
    });
}

#[test]
fn a_disk_that_is_full_or_fails_is_named_and_costs_nothing() {
    let tiny = Tiny::new();
    let changes = changes(&tiny, &run("whole"));
    for (fault, n, words) in [
        (
            "enospc",
            8,
            ["No space left on device", "free some space and run the same command again"],
        ),
        ("eio", 8, ["Input/output error", "cannot "]),
        ("erofs", 4, ["Read-only file system", "on a disk that can be written to"]),
    ] {
        // The first changes make the folder itself.
        let points: Vec<usize> =
            points(changes.len() - 4, n).into_iter().map(|at| at + 3).collect();
        each(&points, |at| {
            let out = format!("{fault}-{at}");
            let failed =
                tiny.craft(&run(&out)).env(DISK, format!("{fault}@{at}")).output().unwrap();
            let error = String::from_utf8_lossy(&failed.stderr).into_owned();
            assert_eq!(failed.status.code(), Some(1), "{fault}@{at} {}: {error}", changes[at - 1]);
            let line = error.lines().find(|line| line.starts_with("error: ")).unwrap();
            for word in words.iter().chain([&out.as_str()]) {
                assert!(line.contains(word), "{fault}@{at}: `{word}` is not in {line}");
            }
            // Where removing is refused, too, the next start removes what is left.
            if fault == "enospc" {
                assert_no_half_files(&tiny.path(&out));
            }
            tiny.expect(&run(&out), 0, &[]);
            same_files(&tiny.path("whole"), &tiny.path(&out), &format!("{fault} at {at}"));
            fs::remove_dir_all(tiny.path(&out)).unwrap();
        });
    }
}

/// A refusal is not a kill: temporary files are removed.
fn assert_no_half_files(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!name.ends_with(".tmp"), "{} was left behind", path.display());
        if path.is_dir() {
            assert_no_half_files(&path);
        }
    }
}

/// Before a file gets its name its content is flushed, and after it the folder.
#[test]
fn every_name_is_given_to_flushed_content_and_flushed_itself() {
    let tiny = Tiny::new();
    let changes = changes(&tiny, &run("whole"));
    let mut renames = 0;
    for (i, line) in changes.iter().enumerate() {
        let Some(path) = line.strip_prefix("Rename ") else { continue };
        // Folders that are about to be removed need no flush.
        let Some(next) = changes.get(i + 1).filter(|next| next.starts_with("Flush ")) else {
            assert!(path.contains("/step-"), "{path} is not flushed after it got its name");
            continue;
        };
        renames += 1;
        assert!(changes[i - 1].starts_with("Flush "), "{path} is not flushed before");
        let folder = Path::new(path).parent().unwrap().display().to_string();
        assert_eq!(*next, format!("Flush {folder}"));
    }
    assert!(renames > 40, "{renames}");
}
