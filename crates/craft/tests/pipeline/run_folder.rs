//! docs/run-folder.md describes a run: every file, and every key of its JSON, both ways.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

const PAGE: &str = include_str!("../../../../docs/run-folder.md");

/// A file or key of the page.
#[derive(Debug)]
struct Described<'a> {
    path: &'a str,
    /// Whether it is not in every run.
    only: bool,
    keys: Vec<Described<'a>>,
}

/// What stands between the first two backticks.
fn code(line: &str) -> Option<&str> {
    line.split('`').nth(1)
}

/// Headings are files, the rows of their tables keys.
fn described() -> Vec<Described<'static>> {
    let mut all: Vec<Described<'_>> = Vec::new();
    let mut first = false;
    for line in PAGE.lines() {
        if let Some(path) = line.strip_prefix("### ").and_then(code) {
            all.push(Described { path, only: false, keys: Vec::new() });
            first = true;
            continue;
        }
        let Some(file) = all.last_mut() else { continue };
        if first {
            file.only = line.starts_with("Only ");
            first = false;
        }
        if let Some(path) = line.strip_prefix("| `").and_then(|_| code(line)) {
            let only = line.split('|').nth(2).is_some_and(|kind| kind.contains(", only "));
            file.keys.push(Described { path, only, keys: Vec::new() });
        }
    }
    all
}

/// Whether a name fits a pattern with parts in `<…>`.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('<') {
        None => pattern == name,
        Some((start, rest)) => {
            let Some(name) = name.strip_prefix(start) else { return false };
            let rest = rest.split_once('>').map_or("", |(_, rest)| rest);
            (1..=name.len())
                .filter(|end| name.is_char_boundary(*end))
                .any(|end| fits(rest, &name[end..]))
        }
    }
}

/// Whether a file is the one that a heading describes; `**` is everything below.
fn is_of(path: &str, file: &str) -> bool {
    if let Some(folder) = path.strip_suffix("**") {
        return file.starts_with(folder);
    }
    let (path, file): (Vec<&str>, Vec<&str>) =
        (path.split('/').collect(), file.split('/').collect());
    path.len() == file.len() && path.iter().zip(&file).all(|(p, f)| fits(p, f))
}

fn files(dir: &Path, below: &str, all: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let name = if below.is_empty() { name } else { format!("{below}/{name}") };
        if path.is_dir() { files(&path, &name, all) } else { all.push(name) }
    }
}

/// A key's parts: `a.<b>[].c` is `a`, `<b>`, `[]`, `c`.
fn parts(key: &str) -> Vec<String> {
    key.replace("[]", ".[]").split('.').map(str::to_owned).collect()
}

/// Compares the keys of a value with those described: `keys` are the parts below it, with whether they are optional.
fn compare(value: &Value, keys: &[(&[String], bool)], at: &str) {
    let keys: Vec<&(&[String], bool)> =
        keys.iter().filter(|(parts, _)| !parts.is_empty()).collect();
    let below = |name: &str| -> Vec<(&[String], bool)> {
        let own = keys.iter().filter(|(parts, _)| parts[0] == name);
        own.map(|(parts, only)| (&parts[1..], *only)).collect()
    };
    match value {
        Value::Array(items) if keys.iter().any(|(parts, _)| parts[0] == "[]") => {
            items.iter().for_each(|item| compare(item, &below("[]"), at));
        }
        Value::Object(map) if !keys.is_empty() => {
            let known = |name: &str| {
                let exact = keys.iter().find(|(parts, _)| parts[0] == name);
                exact.or_else(|| keys.iter().find(|(parts, _)| parts[0].starts_with('<')))
            };
            for (name, inner) in map {
                let found = known(name);
                let found = found.unwrap_or_else(|| panic!("{at}: key `{name}` is not described"));
                compare(inner, &below(&found.0[0]), &format!("{at}.{name}"));
            }
            for (parts, only) in &keys {
                let there = parts[0].starts_with('<') || *only || map.contains_key(&parts[0]);
                assert!(there, "{at}: key `{}` is described and not there", parts[0]);
            }
        }
        _ => {}
    }
}

/// All values of a JSON file.
fn values(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    match path.extension().is_some_and(|end| end == "jsonl") {
        true => text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        false => vec![serde_json::from_str(&text).unwrap()],
    }
}

/// Compares a run with the page.
fn check(run: &Path) {
    let described = described();
    assert!(described.len() > 25, "{described:?}");
    let mut found = Vec::new();
    files(run, "", &mut found);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for name in &found {
        let file = described.iter().find(|file| is_of(file.path, name));
        let file = file.unwrap_or_else(|| panic!("{name} is not described in docs/run-folder.md"));
        *seen.entry(file.path).or_default() += 1;
        if !file.keys.is_empty() {
            let keys: Vec<(Vec<String>, bool)> =
                file.keys.iter().map(|key| (parts(key.path), key.only)).collect();
            let keys: Vec<(&[String], bool)> =
                keys.iter().map(|(parts, only)| (parts.as_slice(), *only)).collect();
            for value in values(&run.join(name)) {
                compare(&value, &keys, name);
            }
        }
    }
    for file in described.iter().filter(|file| !file.only) {
        assert!(seen.contains_key(file.path), "{} is described and not in the run", file.path);
    }
}

#[test]
fn the_page_describes_every_file_and_key_of_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let more = ["--set", "sweep.enabled=true", "--set", "sweep.factors=[0.0, 1.0]"];
    let more = [&more[..], &["--set", "stop.every=2", "--set", "stop.prompts=2"]].concat();
    super::ok(&super::run(dir.path(), "a", &more));
    check(&dir.path().join("a"));
    for file in ["sweep/sweep.json", "aligned/looks.jsonl", "selection/control.jsonl"] {
        assert!(dir.path().join("a").join(file).is_file(), "{file}");
    }
}
