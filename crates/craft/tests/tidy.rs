//! Rules of the source tree that the compiler does not hold.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::path::{Path, PathBuf};

/// Longest file; one idea a file.
const MOST_LINES: usize = 400;

/// Longest function outside of the kernels.
const MOST_LINES_OF_A_FUNCTION: usize = 80;

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
        .filter(|(_, lines)| *lines > MOST_LINES)
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "files of more than {MOST_LINES} lines: {}", long.join(", "));
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
        ("craft-nn", &["craft-core", "craft-model", "craft-train", "craft-rewards", "craft-store"]),
        ("craft-model", &["craft-train", "craft-pipeline", "craft-compare", "craft-rewards"]),
        ("craft-rewards", &["craft-store", "craft-model", "craft-train", "craft-pocket"]),
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
}

#[test]
fn there_is_one_engine_and_one_door_to_networks() {
    no_line("src", "a network's name outside its family's folder", |name, line| {
        line.contains("UNet2DConditionModel")
            && !["crates/craft-nn/", "crates/craft-model/src/sd/"]
                .iter()
                .any(|p| name.starts_with(p))
    });
    let of = |word: &str| -> Vec<String> {
        let found = sources("src").into_iter().filter(|(_, text)| text.contains(word));
        found.map(|(name, _)| name).collect()
    };
    assert_eq!(of("norm + 1e-6"), ["crates/craft-train/src/fit.rs"], "gradients are clipped once");
    assert_eq!(of("optimizer.step("), ["crates/craft-train/src/fit.rs"], "one optimizer step");
}

/// The manifest of a crate: names of its dependencies.
fn dependencies(text: &str) -> Vec<String> {
    let section = text.split("[dependencies]").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let name = |line: &str| line.split(['.', ' ', '=']).next().map(str::to_owned);
    section
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(name)
        .filter(|n| !n.is_empty())
        .collect()
}

#[test]
fn dependencies_are_used() {
    let mut unused = Vec::new();
    let mut all = std::collections::BTreeSet::new();
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let folder = entry.unwrap().path();
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let mut files = Vec::new();
        rust_files(&folder.join("src"), &mut files);
        let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        for name in dependencies(&manifest) {
            if !text.contains(&name.replace('-', "_")) {
                unused.push(format!("{}: {name}", folder.file_name().unwrap().display()));
            }
            all.insert(name);
        }
        // Those of tests and of single systems too.
        let names = manifest.lines().filter_map(|l| l.split(['.', ' ', '=']).next());
        all.extend(names.map(str::to_owned));
    }
    assert!(unused.is_empty(), "dependencies that no source names: {}", unused.join(", "));
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let section = workspace.split("[workspace.dependencies]").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    for line in section.lines().filter(|l| !l.starts_with('#') && l.contains('=')) {
        let name = line.split(['.', ' ', '=']).next().unwrap();
        assert!(all.contains(name), "the workspace declares {name}, which no crate uses");
    }
}

/// Documents, as (path from the root, text); the log tells of what was.
fn documents() -> Vec<(String, String)> {
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in ["", "docs", "benches", "recipes/prompts", "fixtures/layouts"] {
        let entries = fs::read_dir(root().join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        files.extend(paths.filter(|path| path.extension().is_some_and(|e| e == "md")));
    }
    files.sort();
    let name = |path: &Path| path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
    let told = files.iter().map(|path| (name(path), fs::read_to_string(path).unwrap()));
    told.filter(|(name, _)| name != "CHANGELOG.md").collect()
}

/// What stands between backticks on one line.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn documents_name_files_that_exist() {
    let mut missing = Vec::new();
    let starts =
        ["crates/", "craft-", "craft/", "docs/", "tools/", "fixtures/", "recipes/", "dev/"];
    for (document, text) in documents() {
        for path in quoted(&text) {
            let is_path = starts.iter().any(|start| path.starts_with(start))
                && path.contains('/')
                && !path.contains([' ', '*', '…', '<', '{', '"', ':', '$']);
            let plain = path.trim_end_matches('/');
            let there = [root().join(plain), root().join("crates").join(plain)];
            if is_path && !there.iter().any(|path| path.exists()) {
                missing.push(format!("{document}: `{path}`"));
            }
        }
        let folder = root().join(&document).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !folder.join(target).exists() {
                missing.push(format!("{document}: ({link})"));
            }
        }
    }
    assert!(missing.is_empty(), "documents name what is not there:\n{}", missing.join("\n"));
}

#[test]
fn the_architecture_names_tests_that_exist() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let part = text.split("## Invariants").nth(1).unwrap().split("\n## ").next().unwrap();
    let all: String =
        ["src", "tests"].iter().flat_map(|part| sources(part)).map(|(_, text)| text).collect();
    let is_name = |word: &&str| {
        word.contains('_')
            && word.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
    };
    for name in quoted(part).filter(is_name) {
        assert!(all.contains(name), "ARCHITECTURE.md names {name}, which no source has");
    }
}

/// Functions of a file outside of tests, as (name, lines).
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let words: Vec<&str> = line.split_whitespace().take(6).collect();
        let Some(at) = words.iter().position(|word| *word == "fn") else { continue };
        let before = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe"];
        if !words[..at].iter().all(|word| before.contains(word)) {
            continue;
        }
        let close = format!("{}}}", " ".repeat(indent));
        let Some(end) = lines[i..].iter().position(|line| *line == close) else { continue };
        let name = words.get(at + 1).unwrap_or(&"").split(['(', '<']).next().unwrap_or_default();
        found.push((name.to_owned(), end + 1));
    }
    found
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    for (file, text) in sources("src") {
        if file.starts_with("crates/craft-kernels/") {
            continue;
        }
        let over =
            functions(&text).into_iter().filter(|(_, lines)| *lines > MOST_LINES_OF_A_FUNCTION);
        long.extend(over.map(|(name, lines)| format!("{file}: {name}, {lines} lines")));
    }
    assert!(long.is_empty(), "long functions:\n{}", long.join("\n"));
}
