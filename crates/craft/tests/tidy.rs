//! Rules of the source tree that the compiler does not hold.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::path::{Path, PathBuf};

/// Longest file; one idea a file.
const MOST_LINES: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Rust files under a folder, sorted.
fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// Every Rust file of every crate below `part`, as (path from the root, text).
fn sources(part: &str) -> Vec<(String, String)> {
    let crates = root().join("crates");
    let mut files = Vec::new();
    for entry in fs::read_dir(&crates).unwrap() {
        rust_files(&entry.unwrap().path().join(part), &mut files);
    }
    files.sort();
    assert!(!files.is_empty());
    let name =
        |path: &Path| path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
    files.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// Fails with every line of code that `wrong` finds, comments left out.
#[track_caller]
fn no_line(part: &str, rule: &str, wrong: impl Fn(&str, &str) -> bool) {
    let mut found = Vec::new();
    for (name, text) in sources(part) {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.starts_with("//") && wrong(&name, line) {
                found.push(format!("{name}:{}: {line}", number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

#[test]
fn files_are_short() {
    let long: Vec<String> = sources("src")
        .into_iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines >= MOST_LINES)
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "files of {MOST_LINES} lines or more: {}", long.join(", "));
}

#[test]
fn skipped_tests_say_why() {
    // Written in two parts, so that this line is not one of those it looks for.
    let bare = concat!("#[", "ignore]");
    for part in ["src", "tests"] {
        no_line(part, "a test is ignored without a reason", |_, line| line.contains(bare));
    }
}

#[test]
fn comparisons_are_not_thrown_away() {
    for part in ["src", "tests"] {
        no_line(part, "the result of matches! is not used", |_, line| {
            line.starts_with("matches!(") && line.ends_with(");")
        });
    }
}

#[test]
fn unsafe_code_lives_in_the_kernels_only() {
    let word = |line: &str| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
    };
    for part in ["src", "tests"] {
        no_line(part, "unsafe outside craft-kernels", |name, line| {
            !name.starts_with("crates/craft-kernels/")
                && !name.ends_with("tests/tidy.rs")
                && (word(line) || (line.contains("allow(") && line.contains("unsafe_code")))
        });
    }
}

#[test]
fn pure_crates_stay_pure() {
    let manifest = |name: &str| {
        let path = root().join("crates").join(name).join("Cargo.toml");
        let text = fs::read_to_string(path).unwrap();
        text.split("[dev-dependencies]").next().unwrap().to_owned()
    };
    // What each crate must not depend on (ARCHITECTURE.md, invariants).
    for (name, forbidden) in [
        ("craft-core", &["burn", "craft-store", "ureq", "tempfile", "rayon"][..]),
        ("craft-kernels", &["burn", "craft-"]),
        ("craft-nn", &["craft-core", "craft-diffusion", "craft-rewards", "craft-store"]),
        ("craft-diffusion", &["craft-store", "craft-rewards", "image"]),
        ("craft-rewards", &["craft-store", "craft-diffusion", "craft-pocket"]),
        ("craft-pocket", &["burn", "craft-"]),
        ("craft-report", &["burn", "craft-nn", "craft-pipeline", "craft-rewards"]),
        ("craft-store", &["burn", "craft-core", "craft-pipeline"]),
        ("craft-net", &["burn", "craft-"]),
        ("craft-train", &["craft-pipeline", "craft-compare", "craft-rewards"]),
        ("craft-pipeline", &["craft-compare", "craft-pocket"]),
    ] {
        let text = manifest(name);
        for line in text.lines().skip_while(|line| *line != "[dependencies]") {
            let bad = forbidden.iter().find(|f| line.starts_with(**f));
            assert!(bad.is_none(), "{name} depends on {line}");
        }
    }
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let connects = manifest(&name).lines().any(|line| line.starts_with("ureq"));
        assert_eq!(connects, name == "craft-net", "{name} and the HTTP client");
    }
    no_line("src", "anyhow outside the binary", |name, line| {
        !name.starts_with("crates/craft/") && line.contains("anyhow::")
    });
}

#[test]
fn a_comparison_reaches_the_pipeline_by_one_module() {
    no_line(
        "src",
        "the pipeline is named elsewhere than in lib.rs of craft-compare",
        |name, line| {
            name.starts_with("crates/craft-compare/")
                && line.contains("craft_pipeline::")
                && !line.contains("craft_pipeline::client as pipeline;")
        },
    );
}

/// `clippy.toml` refuses files and connections elsewhere; who may allow them is said here.
#[test]
fn one_crate_owns_files_and_one_connections() {
    no_line("src", "files or connections outside the crates that own them", |name, line| {
        let owner =
            ["crates/craft-store/src/lib.rs", "crates/craft-net/src/lib.rs"].contains(&name);
        // Modules of tests allow it together with `unwrap`.
        line.contains("disallowed_methods") && !owner && !line.contains("unwrap_used")
    });
}

#[test]
fn pure_code_has_no_clock_and_no_disk() {
    no_line("src", "craft-core reads a clock or the disk", |name, line| {
        name.starts_with("crates/craft-core/")
            && ["std::fs", "std::net", "std::time", "std::env"].iter().any(|m| line.contains(m))
    });
    no_line("src", "craft-diffusion touches the disk", |name, line| {
        name.starts_with("crates/craft-diffusion/") && line.contains("std::fs")
    });
}
