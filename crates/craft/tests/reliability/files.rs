//! What is in a folder, to compare runs with.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use craft_store::hash::{sha256_bytes, sha256_file};
use serde_json::Value;

/// Every file below a folder by its path, hidden ones too, with a digest of what may not differ between
/// two runs of the same recipe.
pub(crate) fn files(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    walk(dir, dir, &mut found);
    found
}

fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(root, &path, found);
            // A folder without files shows, too.
            found.insert(format!("{}/", relative(root, &path)), String::new());
        } else {
            found.insert(relative(root, &path), digest(&path));
        }
    }
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap().to_string_lossy().into_owned()
}

/// The hash of a file without its clock: seconds, memory and the number of the process.
fn digest(path: &Path) -> String {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let timeless = |text: &str| {
        let mut value: Value = serde_json::from_str(text).unwrap();
        let object = value.as_object_mut().unwrap();
        for clock in ["seconds", "peak_rss_bytes"] {
            object.remove(clock);
        }
        value.to_string()
    };
    let text = || fs::read_to_string(path).unwrap();
    match name.as_str() {
        // Measured times are in a plan.
        ".lock" | "index.html" | ".stage-times" | "plan.json" => String::new(),
        "stage.json" | "run.json" => sha256_bytes(timeless(&text())),
        "metrics.jsonl" => sha256_bytes(text().lines().map(timeless).collect::<String>()),
        // Lines come in the order in which pictures were scored.
        "scores.jsonl" => {
            let text = text();
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            sha256_bytes(lines.join("\n"))
        }
        _ => sha256_file(path).unwrap(),
    }
}

/// Fails with the names of the files that differ.
#[track_caller]
pub(crate) fn same_files(expected: &Path, found: &Path, about: &str) {
    let (a, b) = (files(expected), files(found));
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let differ: Vec<String> = names
        .into_iter()
        .filter(|name| a.get(*name) != b.get(*name))
        .map(|name| match (a.get(name), b.get(name)) {
            (Some(_), None) => format!("{name} is missing"),
            (None, Some(_)) => format!("{name} was left behind"),
            _ => format!("{name} differs"),
        })
        .collect();
    assert!(differ.is_empty(), "{about}: {}", differ.join(", "));
}
