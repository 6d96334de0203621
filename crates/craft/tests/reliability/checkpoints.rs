//! Checkpoints: damage, kills and Ctrl-C never cost more than the steps since the one before.

use std::fs;
use std::path::{Path, PathBuf};

use crate::files::same_files;
use crate::support::Tiny;

const WEIGHTS: &str = "aligned/unet/diffusion_pytorch_model.safetensors";

fn run<'a>(out: &'a str, set: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["run", "recipe.toml", "--out", out, "--set", "control.enabled=false"];
    for key in set {
        args.extend(["--set", key]);
    }
    args
}

fn steps(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn flip(path: PathBuf) {
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_the_one_before_is_used() {
    let tiny = Tiny::new();
    let args = run("out", &["train.steps=6"]);
    tiny.expect(&args, 0, &[]);
    let whole = tiny.path("whole");
    crate::support::copy(&tiny.path("out"), &whole);
    assert_eq!(steps(&tiny.path("out/checkpoints")), ["step-4", "step-6"]);
    type Spoil = (&'static str, &'static str, fn(PathBuf));
    let spoil: [Spoil; 5] = [
        ("unet.safetensors", "unet.safetensors was changed or damaged", flip),
        ("optimizer.safetensors", "optimizer.safetensors was changed or damaged", flip),
        ("state.json", "passed over", flip),
        ("unet.safetensors", "unet.safetensors was changed or damaged", |path| {
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("optimizer.safetensors", "optimizer.safetensors is missing", |path| {
            fs::remove_file(path).unwrap();
        }),
    ];
    for (file, word, spoil) in spoil {
        // As if it had ended just before the model was written.
        fs::remove_dir_all(tiny.path("out/aligned")).unwrap();
        spoil(tiny.path("out/checkpoints/step-6").join(file));
        let words = ["the checkpoint of step 6 is passed over", word, "continuing from step 4"];
        tiny.expect(&args, 0, &words);
        same_files(&whole, &tiny.path("out"), file);
    }
    fs::remove_dir_all(tiny.path("out/aligned")).unwrap();
    for step in ["step-4", "step-6"] {
        flip(tiny.path("out/checkpoints").join(step).join("unet.safetensors"));
    }
    let words = ["step 6 is passed over", "step 4 is passed over", "training begins at step 0"];
    tiny.expect(&args, 0, &words);
    same_files(&whole, &tiny.path("out"), "both damaged");
}

#[test]
#[cfg(unix)]
fn ctrl_c_at_the_step_a_run_resumed_at_loses_nothing() {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    let tiny = Tiny::new();
    let set = ["train.steps=3000", "train.checkpoint_every=20"];
    let start = || {
        Command::new(env!("CARGO_BIN_EXE_craft"))
            .args(run("out", &set))
            .current_dir(tiny.path("."))
            .env("CRAFT_POCKET_DIR", tiny.path("model"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let signal = |child: &Child, name: &str| {
        let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    };
    let mut child = start();
    let begun = Instant::now();
    while !tiny.path("out/checkpoints/step-40").exists() {
        assert!(begun.elapsed() < Duration::from_secs(300) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(&child, "-KILL");
    child.wait().unwrap();
    let mut before = 0;
    for pause in [0, 0, 1, 3, 10, 30] {
        let mut child = start();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut from = 0;
        for line in lines.map_while(Result::ok) {
            if let Some((_, step)) = line.split_once("continuing from step ") {
                from = step.trim().parse::<usize>().unwrap();
                signal(&child, "-INT");
                std::thread::sleep(Duration::from_millis(pause));
                let _ = Command::new("kill")
                    .args(["-INT", &child.id().to_string()])
                    .stderr(Stdio::null())
                    .status();
            }
        }
        assert_eq!(child.wait().unwrap().code(), Some(130));
        // What was acknowledged is still there.
        assert!(from >= 40 && from >= before, "after {before} it continues from {from}");
        before = from;
    }
    // Two are kept, and both are whole.
    let left = steps(&tiny.path("out/checkpoints"));
    let whole = left.iter().filter(|name| name.starts_with("step-"));
    assert_eq!(whole.clone().count(), 2, "{left:?}");
    for name in whole {
        let dir = tiny.path("out/checkpoints").join(name);
        let text = fs::read_to_string(dir.join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_str(&text).unwrap();
        for part in ["unet", "optimizer"] {
            let hash = craft_store::hash::sha256_file(&dir.join(format!("{part}.safetensors")));
            assert_eq!(state[format!("{part}_sha256")], hash.unwrap());
        }
    }
}

#[test]
fn a_run_says_when_it_begins_anew_since_there_was_no_checkpoint() {
    let tiny = Tiny::new();
    let args = run("out", &["train.checkpoint_every=3"]);
    // Killed at the second step: its line in the metrics is there, a checkpoint is not.
    let log = tiny.path("log");
    tiny.craft(&run("whole", &["train.checkpoint_every=3"]))
        .env("CRAFT_TEST_DISK", format!("log={}", log.display()))
        .output()
        .unwrap();
    let text = fs::read_to_string(log).unwrap();
    let metrics = text
        .lines()
        .enumerate()
        .filter(|(_, line)| line.starts_with("Write ") && line.ends_with("metrics.jsonl"));
    let at = metrics.map(|(i, _)| i + 1).nth(1).unwrap();
    tiny.craft(&args).env("CRAFT_TEST_DISK", format!("kill@{at}")).output().unwrap();
    let words = ["training begins at step 0", "before its first checkpoint"];
    tiny.expect(&args, 0, &words);
    let read = |run: &str| fs::read(tiny.path(run).join(WEIGHTS)).unwrap();
    assert!(read("whole") == read("out"));
}
