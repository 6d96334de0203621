//! Links in a run folder: what they lead to is never touched.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::files::files;
use crate::support::{Tiny, copy};

const STAGES: [&str; 7] = ["expand", "generate", "score", "select", "train", "evaluate", "report"];

/// A folder of somebody else, with names that a run could take for its own.
fn canary(tiny: &Tiny, name: &str) -> PathBuf {
    let dir = tiny.path(name);
    for folder in ["images", "step-1", "control", "aligned", ".step-2.1-1.tmp"] {
        fs::create_dir_all(dir.join(folder)).unwrap();
        fs::write(dir.join(folder).join("a.png"), "keep").unwrap();
    }
    for file in ["photo.jpg", "index.html", "state.json", "config.json", ".a.1-1.tmp"] {
        fs::write(dir.join(file), "keep").unwrap();
    }
    dir
}

/// Puts a link into the place of a part of a run.
fn replace_by_link(path: &Path, to: &Path) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else if path.exists() {
        fs::remove_file(path).unwrap();
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(to, path).unwrap();
}

#[test]
fn no_command_touches_what_a_link_in_a_run_leads_to() {
    let tiny = Tiny::new();
    let run = ["run", "recipe.toml", "--out", "out"];
    tiny.expect(&run, 0, &[]);
    tiny.write("notes.txt", "keep these words");
    let folder = canary(&tiny, "photos");
    let before = files(&folder);
    let words = ["is a link to", "expected", "Remove the link"];
    let places = [
        ("prompts", true),
        ("expanded", true),
        ("candidates", true),
        ("candidates/images", true),
        ("rewards", true),
        ("selection", true),
        ("aligned", true),
        ("control", true),
        ("control/aligned", true),
        ("evaluation", true),
        ("report", true),
        ("report/images", true),
        ("checkpoints", true),
        ("checkpoints/control", true),
        ("checkpoints/step-4", true),
        ("cache", true),
        (".lock", false),
        ("recipe.toml", false),
        ("base.json", false),
        ("run.json", false),
        ("metrics.jsonl", false),
        ("cache/scores.jsonl", false),
        ("rewards/rewards.jsonl", false),
        ("evaluation/stage.json", false),
        ("report/index.html", false),
    ];
    for (i, (place, is_folder)) in places.into_iter().enumerate() {
        let _ = fs::remove_dir_all(tiny.path("tried"));
        copy(&tiny.path("out"), &tiny.path("tried"));
        let target = if is_folder { folder.clone() } else { tiny.path("notes.txt") };
        replace_by_link(&tiny.path("tried").join(place), &target);
        let stage = STAGES[i % STAGES.len()];
        tiny.expect(&[stage, "tried"], 3, if place == "recipe.toml" { &[] } else { &words });
        tiny.expect(&["run", "recipe.toml", "--out", "tried"], 3, &words);
        // Reads only; whether it gets what it needs or not, nothing may change.
        let to = ["export", "tried", "--format", "lora-kohya", "--out", "e.safetensors"];
        tiny.craft(&to).output().unwrap();
        let _ = fs::remove_file(tiny.path("e.safetensors"));
        assert_eq!(files(&folder), before, "{place}");
        assert_eq!(fs::read_to_string(tiny.path("notes.txt")).unwrap(), "keep these words");
    }
    // Every command that opens a run.
    let _ = fs::remove_dir_all(tiny.path("tried"));
    copy(&tiny.path("out"), &tiny.path("tried"));
    replace_by_link(&tiny.path("tried/evaluation"), &folder);
    for stage in STAGES {
        tiny.expect(&[stage, "tried"], 3, &words);
    }
    tiny.expect(&["report", "tried", "--out", "page"], 0, &[]);
    let sample = ["sample", "--model", "tried/aligned", "--prompt", "x", "--steps", "1"];
    tiny.expect(&sample, 0, &[]);
    assert_eq!(files(&folder), before);
}

#[test]
fn a_run_folder_of_nothing_but_a_recipe_and_a_link_is_refused() {
    let tiny = Tiny::new();
    tiny.expect(&["run", "recipe.toml", "--out", "out"], 0, &[]);
    let folder = canary(&tiny, "photos");
    let before = files(&folder);
    fs::create_dir(tiny.path("made")).unwrap();
    for file in ["recipe.toml", "base.json"] {
        fs::copy(tiny.path("out").join(file), tiny.path("made").join(file)).unwrap();
    }
    symlink(&folder, tiny.path("made/prompts")).unwrap();
    tiny.expect(&["expand", "made"], 3, &["made/prompts: it is a link to"]);
    assert_eq!(files(&folder), before);
    // A link to nothing is no better: it would be made there.
    fs::remove_file(tiny.path("made/prompts")).unwrap();
    symlink(tiny.path("nothing"), tiny.path("made/prompts")).unwrap();
    tiny.expect(&["expand", "made"], 3, &["made/prompts: it is a link to"]);
    assert!(!tiny.path("nothing").exists());
}

#[test]
fn a_run_may_lie_behind_a_link() {
    let tiny = Tiny::new();
    fs::create_dir(tiny.path("disk")).unwrap();
    symlink(tiny.path("disk"), tiny.path("out")).unwrap();
    tiny.expect(&["run", "recipe.toml", "--out", "out"], 0, &[]);
    assert!(tiny.path("disk/run.json").is_file());
    tiny.expect(&["report", "out"], 0, &["already done"]);
}

/// A stage's folder that somebody else filled: kept under another name.
#[test]
fn files_in_a_stages_folder_that_no_stage_wrote_are_kept() {
    let tiny = Tiny::new();
    tiny.expect(&["run", "recipe.toml", "--out", "out"], 0, &[]);
    fs::create_dir_all(tiny.path("made/prompts")).unwrap();
    fs::copy(tiny.path("out/recipe.toml"), tiny.path("made/recipe.toml")).unwrap();
    fs::copy(tiny.path("out/base.json"), tiny.path("made/base.json")).unwrap();
    tiny.write("made/prompts/mine.txt", "a list of a night's work");
    tiny.expect(&["expand", "made"], 0, &["they are kept in", "prompts.old-1"]);
    let kept = fs::read_to_string(tiny.path("made/prompts.old-1/mine.txt")).unwrap();
    assert_eq!(kept, "a list of a night's work");
    assert!(tiny.path("made/prompts/prompts.jsonl").exists());
}

#[test]
fn comparisons_and_builds_refuse_links_too() {
    let tiny = Tiny::new();
    let folder = canary(&tiny, "photos");
    let before = files(&folder);
    let compare =
        ["compare", "recipe.toml", "--methods", "sft", "--seeds", "1", "--quick", "--out", "cmp"];
    fs::create_dir(tiny.path("cmp")).unwrap();
    tiny.expect(&compare, 0, &[]);
    for place in ["cmp/seed-1/methods", "cmp/seed-1", "cmp/report", "cmp/seed-1/candidates"] {
        let kept = tiny.path("kept");
        fs::rename(tiny.path(place), &kept).unwrap();
        symlink(&folder, tiny.path(place)).unwrap();
        tiny.expect(&compare, 3, &["is a link to", "Remove the link"]);
        assert_eq!(files(&folder), before, "{place}");
        fs::remove_file(tiny.path(place)).unwrap();
        fs::rename(&kept, tiny.path(place)).unwrap();
    }
    fs::create_dir(tiny.path("p")).unwrap();
    for place in ["p/vae", "p/tokenizer", "p/.work"] {
        symlink(&folder, tiny.path(place)).unwrap();
        let build = ["pocket", "build", "--out", "p", "--scale", "0.001", "tokenizer"];
        tiny.expect(&build, 3, &["is a link to", "Remove the link"]);
        assert_eq!(files(&folder), before, "{place}");
        fs::remove_file(tiny.path(place)).unwrap();
    }
}
