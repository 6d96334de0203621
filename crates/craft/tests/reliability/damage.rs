//! What an interrupted evaluation left and was damaged since is measured again.

use std::fs;
use std::path::Path;

use crate::process::{Process, same_results};
use crate::support::{Tiny, copy};

const RUN: [&str; 8] = [
    "run",
    "recipe.toml",
    "--set",
    "evaluate.steps=40",
    "--set",
    "generate.batch=4",
    "--out",
    "out",
];

/// What is done to an evaluation's folder.
type Damage<'a> = &'a dyn Fn(&Path);

fn cut(path: &Path, bytes: usize) {
    let whole = fs::read(path).unwrap();
    fs::write(path, &whole[..bytes.min(whole.len())]).unwrap();
}

#[test]
fn a_damaged_evaluation_is_measured_again() {
    let tiny = Tiny::new();
    let mut process = Process::start(&tiny, &RUN);
    let numbers = tiny.path("out/evaluation/.numbers-base.json");
    process.until(|| numbers.exists());
    assert!(process.signal("-KILL"));
    process.end();
    copy(&tiny.path("out"), &tiny.path("killed"));
    tiny.expect(&RUN, 0, &[]);
    fs::rename(tiny.path("out"), tiny.path("whole")).unwrap();
    let first = fs::read_dir(tiny.path("killed/evaluation/images/base")).unwrap().next().unwrap();
    let picture = Path::new("images/base").join(first.unwrap().file_name());
    let damages: [(&str, Damage<'_>); 6] = [
        ("a row cut", &|dir| cut(&dir.join(".rows-base.jsonl"), 40)),
        ("no rows", &|dir| fs::remove_file(dir.join(".rows-base.jsonl")).unwrap()),
        ("a score changed", &|dir| {
            let path = dir.join(".rows-base.jsonl");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(path, text.replacen("\"tiny\":", "\"tiny\":9", 1)).unwrap();
        }),
        ("other numbers", &|dir| fs::write(dir.join(".numbers-base.json"), "[1,2]").unwrap()),
        ("a picture gone", &|dir| fs::remove_file(dir.join(&picture)).unwrap()),
        ("a picture cut", &|dir| cut(&dir.join(&picture), 60)),
    ];
    for (what, damage) in damages {
        let _ = fs::remove_dir_all(tiny.path("out"));
        copy(&tiny.path("killed"), &tiny.path("out"));
        damage(&tiny.path("out/evaluation"));
        let output = tiny.craft(&RUN).output().unwrap();
        assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        same_results(&tiny.path("whole"), &tiny.path("out"));
    }
}

#[test]
fn an_export_into_the_run_is_refused() {
    let tiny = Tiny::new();
    tiny.expect(&["run", "recipe.toml", "--out", "out"], 0, &[]);
    for target in ["out/aligned/x", "out/aligned", "out/candidates/new/x"] {
        let args = ["export", "out", "--format", "diffusers", "--out", target];
        tiny.expect(&args, 2, &["of the run, which holds what its stages wrote"]);
    }
    let args = ["export", "out", "--format", "diffusers", "--out", "out/exports/x"];
    tiny.expect(&args, 0, &[]);
}
