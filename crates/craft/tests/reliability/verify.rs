//! `craft verify` finds what a start does not look for; runs of another version are left as they are.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::files::{files, same_files};
use crate::support::{Tiny, copy};

const RUN: [&str; 4] = ["run", "recipe.toml", "--out", "out"];

/// A bit that is flipped without a trace: same length, same time of last change.
fn rot(path: &Path) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn verify_names_what_a_start_passes_over() {
    let tiny = Tiny::new();
    tiny.expect(&["verify", "model"], 3, &["it holds no stage of a run"]);
    tiny.expect(&RUN, 0, &[]);
    copy(&tiny.path("out"), &tiny.path("whole"));
    // A copy has other times: it is hashed once, and a start says that all is done.
    let whole = ["run", "recipe.toml", "--out", "whole"];
    let error = tiny.expect(&whole, 0, &["train: already done"]);
    assert!(!error.contains("is done again"), "{error}");
    same_files(&tiny.path("out"), &tiny.path("whole"), "a copy");
    let verify = |args: &[&str]| {
        let output = tiny.craft(&[&["verify", "out"][..], args].concat()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, _) = verify(&[]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("finished stages") && out.contains("all are as they were"), "{out}");
    // What a stage notes of its folder does not leave with the model.
    tiny.expect(&["export", "out", "--format", "diffusers", "--out", "tuned"], 0, &[]);
    let notes =
        files(&tiny.path("tuned")).into_keys().find(|f| f.starts_with('.') || f == "stage.json");
    assert_eq!(notes, None);
    let picture = fs::read_dir(tiny.path("out/candidates/images")).unwrap().next().unwrap();
    let picture = picture.unwrap().path();
    rot(&picture);
    fs::remove_file(tiny.path("out/selection/control.jsonl")).unwrap();
    let before = files(&tiny.path("out"));
    let (code, out, error) = verify(&[]);
    assert_eq!(code, Some(3), "{error}");
    for word in [
        picture.file_name().unwrap().to_str().unwrap(),
        "its content has another SHA-256",
        "does the stage `generate` again",
        "control.jsonl is missing",
        "put it back from a copy",
    ] {
        assert!(out.contains(word), "`{word}` is not in {out}");
    }
    assert!(error.contains("2 of") && error.contains("files are not as they were"), "{error}");
    let (code, out, _) = verify(&["--json", "--quiet"]);
    assert_eq!(code, Some(3));
    let lines: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let kinds: Vec<_> = lines.iter().map(|line| line["problem"].as_str()).collect();
    assert_eq!(kinds, [Some("content"), Some("missing"), None]);
    assert_eq!(lines[2]["problems"], 2);
    assert_eq!(before, files(&tiny.path("out")), "verify changes nothing");
}

#[test]
fn a_run_of_an_older_version_is_left_as_it_is() {
    let tiny = Tiny::new();
    tiny.expect(&RUN, 0, &[]);
    let path = tiny.path("out/candidates/stage.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"version\": 2", "\"version\": 1")).unwrap();
    let before = files(&tiny.path("out"));
    let words = ["candidates/stage.json", "an older version", "Continue it with", "another folder"];
    for args in [&RUN[..], &["train", "out"], &["report", "out"], &["verify", "out"]] {
        tiny.expect(args, 3, &words);
        assert_eq!(before, files(&tiny.path("out")), "{args:?}");
    }
    // Reading needs no version.
    tiny.expect(&["report", "out", "--out", "page"], 0, &[]);
}
