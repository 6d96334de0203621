//! The whole loop on the embedded model, cut down to seconds: same bytes whatever the batch size and the
//! number of threads, resuming after a stop, and what happens when nothing passes the filter.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::path::Path;
use std::process::Command;

#[path = "pipeline/run_folder.rs"]
mod run_folder;

/// A recipe that takes seconds.
const RECIPE: &str = r#"
seed = 5

[model]
path = "pocket"

[prompts]
source = "pocket"
train_count = 10
eval_count = 3

[expand]
templates = "pocket"
variants = 3

[generate]
steps = 3
guidance_scale = 4.0
batch = 8

[[rewards]]
name = "pocket-hps"

[[rewards]]
name = "pocket-aes"

[[rewards]]
name = "pocket-ir"
role = "held-out"

[select]
max_samples = 6

[train]
steps = 4
batch = 8
micro_batch = 4
learning_rate = 1e-4
checkpoint_every = 2

[evaluate]
samples_per_prompt = 1
bootstrap = 200
"#;

fn craft() -> Command {
    Command::new(env!("CARGO_BIN_EXE_craft"))
}

fn run(dir: &Path, name: &str, more: &[&str]) -> std::process::Output {
    let recipe = dir.join("recipe.toml");
    fs::write(&recipe, RECIPE).unwrap();
    craft().arg("run").arg(&recipe).arg("--out").arg(dir.join(name)).args(more).output().unwrap()
}

fn ok(output: &std::process::Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Files that must not depend on how the work was cut up.
const SAME: [&str; 9] = [
    "expanded/expanded.jsonl",
    "candidates/candidates.jsonl",
    "candidates/latents.safetensors",
    "rewards/rewards.jsonl",
    "selection/selection.jsonl",
    "selection/control.jsonl",
    "aligned/unet/diffusion_pytorch_model.safetensors",
    "control/aligned/unet/diffusion_pytorch_model.safetensors",
    "evaluation/evaluation.json",
];

fn same(a: &Path, b: &Path) {
    for file in SAME {
        let (left, right) = (fs::read(a.join(file)).unwrap(), fs::read(b.join(file)).unwrap());
        assert!(left == right, "{file} differs between {} and {}", a.display(), b.display());
    }
}

#[test]
fn batch_size_and_threads_change_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    ok(&run(dir.path(), "a", &["--threads", "1", "--set", "generate.batch=3"]));
    ok(&run(dir.path(), "b", &["--threads", "3", "--set", "generate.batch=40"]));
    same(&dir.path().join("a"), &dir.path().join("b"));
    let report = fs::read_to_string(dir.path().join("a/report/index.html")).unwrap();
    assert!(report.contains("pocket-ir"));
    let summary = fs::read_to_string(dir.path().join("a/run.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["candidates"], 40);
    assert_eq!(summary["evaluation"]["pocket-ir"]["trained_on"], false);
    assert!(summary["evaluation"]["checker"]["base"].is_f64());
}

#[test]
fn a_finished_run_is_verified_and_skipped_and_a_damaged_stage_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    ok(&run(dir.path(), "a", &[]));
    let page = dir.path().join("a/candidates/latents.safetensors");
    let before = fs::metadata(&page).unwrap().modified().unwrap();
    ok(&run(dir.path(), "a", &[]));
    assert_eq!(before, fs::metadata(&page).unwrap().modified().unwrap());
    let mut bytes = fs::read(&page).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&page, &bytes).unwrap();
    ok(&run(dir.path(), "a", &[]));
    bytes[last] ^= 1;
    assert_eq!(bytes, fs::read(&page).unwrap());
}

#[test]
fn stages_one_by_one_give_the_same_run() {
    let dir = tempfile::tempdir().unwrap();
    ok(&run(dir.path(), "a", &[]));
    // A run that stops after its prompts, because it is told to do one stage after another.
    let b = dir.path().join("b");
    fs::create_dir_all(&b).unwrap();
    fs::copy(dir.path().join("a/recipe.toml"), b.join("recipe.toml")).unwrap();
    for stage in ["expand", "generate", "score", "select", "train", "evaluate", "report"] {
        let output = craft().arg(stage).arg(&b).output().unwrap();
        ok(&output);
    }
    same(&dir.path().join("a"), &b);
}

#[test]
fn killed_at_random_moments_a_run_ends_the_same() {
    let dir = tempfile::tempdir().unwrap();
    ok(&run(dir.path(), "a", &[]));
    let recipe = dir.path().join("recipe.toml");
    let b = dir.path().join("b");
    let mut finished = false;
    for attempt in 1..200u64 {
        let mut child = craft()
            .args(["run", "-q"])
            .arg(&recipe)
            .arg("--out")
            .arg(&b)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Later attempts are given more time, so that the run ends for certain.
        std::thread::sleep(std::time::Duration::from_millis(150 + 97 * attempt));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            finished = true;
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(finished);
    same(&dir.path().join("a"), &b);
}

#[test]
fn nothing_passes_a_filter_that_is_too_strict() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), "a", &["--set", "select.margin=50"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("none of 30 candidates was selected"), "{text}");
    assert!(text.contains("funnel") && text.contains("margin"), "{text}");
}

#[test]
fn kto_begins_level_with_its_reference_and_learns_from_the_worst_too() {
    let dir = tempfile::tempdir().unwrap();
    ok(&run(dir.path(), "a", &[]));
    ok(&run(dir.path(), "b", &["--set", "train.method=kto"]));
    let json = |path: &str| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(dir.path().join(path)).unwrap()).unwrap()
    };
    let [plain, both] =
        ["a", "b"].map(|r| json(&format!("{r}/aligned/stage.json"))["counts"].clone());
    assert_eq!((&plain["samples"], &both["samples"]), (&6.into(), &12.into()));
    let metrics = fs::read_to_string(dir.path().join("b/metrics.jsonl")).unwrap();
    let losses: Vec<f64> = metrics
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|row| row["run"] == "craft")
        .map(|row| row["loss"].as_f64().unwrap())
        .collect();
    // Nothing is gained over the reference at first, and σ(0) is a half.
    assert!((losses[0] - 0.5).abs() < 1e-3, "{losses:?}");
    assert!(losses[1..].iter().all(|loss| (loss - 0.5).abs() > 1e-6), "{losses:?}");
    let tuned = |name: &str| fs::read(dir.path().join(name).join(SAME[6])).unwrap();
    assert!(tuned("a") != tuned("b"));
}
