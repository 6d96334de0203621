//! What goes wrong while a run works: a reward that gives NaN, a disk that fills up.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::disallowed_methods)]

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{Tiny, WIDTH};

/// A reward model that overflows on one of its tokens: pictures of that prompt are dropped and counted.
#[test]
fn a_reward_that_gives_nan_for_some_images_drops_these() {
    let tiny = Tiny::new();
    let vocab = fs::read_to_string(tiny.path("model/rewards/pocket-hps/vocab.json")).unwrap();
    let vocab: Value = serde_json::from_str(&vocab).unwrap();
    let token = vocab["yellow</w>"].as_u64().unwrap() as usize;
    tiny.edit("model/rewards/pocket-hps/model.safetensors", |all| {
        let name = "text_model.embeddings.token_embedding.weight";
        let rows = &mut all.get_mut(name).unwrap().data;
        rows[token * WIDTH..(token + 1) * WIDTH].fill(f32::MAX);
    });
    tiny.expect(&["run", "recipe.toml", "--out", "out"], 0, &["8 scores are missing"]);
    let stage = fs::read_to_string(tiny.path("out/rewards/stage.json")).unwrap();
    let stage: Value = serde_json::from_str(&stage).unwrap();
    assert_eq!(stage["counts"]["missing"], 8, "two prompts of four candidates");
    for dropped in stage["dropped"].as_array().unwrap() {
        assert_eq!(dropped["reason"], "tiny: non-finite score (NaN)");
    }
    let selection = fs::read_to_string(tiny.path("out/selection/selection.jsonl")).unwrap();
    let rows = selection.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    let yellow = rows.filter(|row| row["prompt_id"] == "p00003" || row["prompt_id"] == "p00007");
    let yellow: Vec<Value> = yellow.collect();
    assert_eq!(yellow.len(), 6);
    assert!(yellow.iter().all(|row| row["selected"] == false && row["total"].is_null()));
    // Nor does the evaluation take it for a number.
    let samples = fs::read_to_string(tiny.path("out/evaluation/samples.jsonl")).unwrap();
    let is_missing = |row: &Value| row["missing"]["tiny"]["kind"] == "non-finite";
    let rows = samples.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    let missing = rows.filter(is_missing);
    assert_eq!(missing.count(), 3, "one prompt, three models");
    let run = fs::read_to_string(tiny.path("out/run.json")).unwrap();
    let run: Value = serde_json::from_str(&run).unwrap();
    assert!(run["evaluation"]["tiny"]["tuned"].is_f64());
}

/// Files of a run that are there must be whole; none is half-written.
#[cfg(unix)]
fn all_whole(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!name.ends_with(".tmp"), "{} was left behind", path.display());
        if path.is_dir() {
            all_whole(&path);
        } else if name.ends_with(".png") {
            craft_store::image::read(&path).unwrap();
        } else if name.ends_with(".safetensors") {
            craft_store::tensors::read(&path).unwrap();
        } else if name.ends_with(".json") {
            serde_json::from_slice::<Value>(&fs::read(&path).unwrap()).unwrap();
        }
    }
}

#[cfg(unix)]
fn same(tiny: &Tiny, a: &str, b: &str) {
    for file in [
        "candidates/latents.safetensors",
        "rewards/rewards.jsonl",
        "selection/selection.jsonl",
        "aligned/unet/diffusion_pytorch_model.safetensors",
    ] {
        let read = |run: &str| fs::read(tiny.path(run).join(file)).unwrap();
        assert!(read(a) == read(b), "{file} differs");
    }
}

/// Runs a shell script in the folder, with `craft` as `$CRAFT`; its exit code and standard error.
#[cfg(unix)]
fn shell(tiny: &Tiny, script: &str) -> (Option<i32>, String) {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script]).current_dir(tiny.path(""));
    command.env("CRAFT", env!("CARGO_BIN_EXE_craft")).env("CRAFT_POCKET_DIR", tiny.path("model"));
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A write that the system refuses half-way through a file (here by a limit on the size of files).
#[test]
#[cfg(unix)]
fn a_refused_write_leaves_nothing_half_written_and_the_run_resumes() {
    let tiny = Tiny::new();
    let limited = "trap '' XFSZ; ulimit -f 16; exec \"$CRAFT\" run recipe.toml --out out";
    let (code, error) = shell(&tiny, limited);
    assert_eq!(code, Some(1), "{error}");
    assert!(
        error.contains("cannot write") && error.contains("run the same command again"),
        "{error}"
    );
    assert_eq!(error.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{error}");
    all_whole(&tiny.path("out"));
    assert!(tiny.path("out/expanded/stage.json").exists(), "it failed too early: {error}");
    assert!(!tiny.path("out/run.json").exists());
    tiny.expect(&["run", "recipe.toml", "--out", "out"], 0, &["expand: already done"]);
    tiny.expect(&["run", "recipe.toml", "--out", "undisturbed"], 0, &[]);
    same(&tiny, "out", "undisturbed");
}

/// A disk that is really full: a small one of our own, where the system lets us have it.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_stops_the_run_and_room_on_it_resumes() {
    let tiny = Tiny::new();
    let (code, error) = shell(&tiny, "unshare -rm sh -c 'mount -t tmpfs none model'");
    if code != Some(0) {
        return eprintln!("skipped: no disk of our own ({})", error.trim());
    }
    // First too few bytes, which is seen beforehand; then too few files, which is seen when writing.
    let script = r#"
        mkdir disk && mount -t tmpfs -o size=8m none disk || exit 90
        run() { "$CRAFT" run recipe.toml --out disk/out; echo "code $?" >&2; }
        run
        mount -o remount,size=200m,nr_inodes=40 disk || exit 91
        run
        find disk -name '*.tmp' >&2
        mount -o remount,nr_inodes=10000 disk || exit 92
        run
        cp -r disk/out copy
    "#;
    tiny.write("script.sh", script);
    let (code, error) = shell(&tiny, "unshare -rm sh script.sh");
    assert_eq!(code, Some(0), "{error}");
    let parts: Vec<&str> = error.split("code ").collect();
    assert!(
        parts[0].contains("not enough space on the disk of") && parts[0].contains("MiB free"),
        "{error}"
    );
    assert!(parts[1].starts_with("1\n"), "{error}");
    assert!(parts[1].contains("(free some space and run the same command again"), "{error}");
    assert!(parts[2].starts_with("1\n") && !parts[2].contains(".tmp"), "{error}");
    assert!(parts[3].starts_with("0\n"), "{error}");
    tiny.expect(&["run", "recipe.toml", "--out", "undisturbed"], 0, &[]);
    same(&tiny, "copy", "undisturbed");
}
