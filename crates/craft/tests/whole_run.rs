//! A whole run with a tiny model: resumes, stops on request, and gives the same bytes however it is run.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::Tiny;

/// What a run decides: candidates, selection, final weights.
const RESULTS: [&str; 5] = [
    "candidates/candidates.jsonl",
    "candidates/latents.safetensors",
    "rewards/rewards.jsonl",
    "selection/selection.jsonl",
    "aligned/unet/diffusion_pytorch_model.safetensors",
];

#[track_caller]
fn same_results(a: &Path, b: &Path) {
    for file in RESULTS {
        let read = |dir: &Path| fs::read(dir.join(file)).unwrap();
        assert!(read(a) == read(b), "{file} of {} and {} differ", a.display(), b.display());
    }
}

#[test]
fn a_run_goes_from_recipe_to_report_and_again_without_work() {
    let tiny = Tiny::new();
    let args = ["run", "recipe.toml", "--out", "out", "--json"];
    let line: Value = serde_json::from_str(&tiny.expect(&args, 0, &["generate: 32"])).unwrap();
    assert_eq!(line["candidates"], 32);
    assert!(line["evaluation"]["tiny"]["trained_on"] == true, "{line}");
    assert!(line["evaluation"]["other"]["trained_on"] == false, "{line}");
    assert!(line["seconds"]["total"].as_f64().unwrap() > 0.0);
    assert!(fs::read_to_string(tiny.path("out/report/index.html")).unwrap().contains("</html>"));
    assert!(tiny.path("out/run.json").is_file());

    let weights = tiny.path("out/aligned/unet/diffusion_pytorch_model.safetensors");
    let before = fs::metadata(&weights).unwrap().modified().unwrap();
    let text = tiny.expect(&["run", "recipe.toml", "--out", "out"], 0, &["already done"]);
    assert!(text.contains("other (held out)") && text.contains("report: "), "{text}");
    assert_eq!(fs::metadata(&weights).unwrap().modified().unwrap(), before);

    // The tuned model is a model like any other.
    tiny.expect(
        &["sample", "--model", "out/aligned", "--prompt", "a red star", "--steps", "1"],
        0,
        &[],
    );
    let export = |format: &str, to: &str, code| {
        let args = ["export", "out", "--format", format, "--out", to, "--rank", "64", "--json"];
        tiny.expect(&args, code, &[])
    };
    let folder: Value = serde_json::from_str(&export("diffusers", "tuned", 0)).unwrap();
    assert_eq!(folder["max_difference"], 0);
    assert!(!tiny.path("tuned/stage.json").exists());
    export("diffusers", "tuned", 2);
    for format in ["lora-kohya", "lora-diffusers"] {
        let file = format!("{format}.safetensors");
        let lora: Value = serde_json::from_str(&export(format, &file, 0)).unwrap();
        assert!(lora["captured"].as_f64().unwrap() > 0.5, "{lora}");
        assert!(lora["mean_difference"].as_f64().unwrap() < 4.0, "{lora}");
        let args = ["sample", "--model", "model", "--prompt", "x", "--steps", "1", "--lora", &file];
        tiny.expect(&args, 0, &[]);
    }
    // A LoRA to another base model would be wrong without a sign of it.
    let base = tiny.path("model/scheduler/scheduler_config.json");
    let kept = fs::read(&base).unwrap();
    fs::write(&base, [kept.as_slice(), b"\n"].concat()).unwrap();
    let args = ["export", "out", "--format", "lora-kohya", "--out", "late.safetensors"];
    tiny.expect(&args, 3, &["not the model that out tuned", "--format diffusers"]);
    fs::write(&base, kept).unwrap();

    let other = ["run", "recipe.toml", "--out", "out", "--set", "seed=2"];
    tiny.expect(&other, 1, &["holds another run", "seed = 1", "seed = 2"]);
}

#[test]
fn stages_one_by_one_threads_and_batches_give_the_same() {
    let tiny = Tiny::new();
    tiny.expect(&["run", "recipe.toml", "--out", "a", "--threads", "2"], 0, &[]);
    let b = ["run", "recipe.toml", "--out", "b", "--threads", "1", "--set", "generate.batch=3"];
    tiny.expect(&b, 0, &[]);
    same_results(&tiny.path("a"), &tiny.path("b"));
    // A copy of the start of a run, finished stage by stage.
    fs::create_dir(tiny.path("c")).unwrap();
    for file in ["recipe.toml", "base.json"] {
        fs::copy(tiny.path("a").join(file), tiny.path("c").join(file)).unwrap();
    }
    for stage in ["expand", "generate", "score", "select", "train", "evaluate", "report"] {
        tiny.expect(&[stage, "c"], 0, &[]);
    }
    same_results(&tiny.path("a"), &tiny.path("c"));
    assert!(tiny.path("c/report/index.html").is_file());
}

#[test]
fn nothing_selected_says_what_to_loosen() {
    let tiny = Tiny::new();
    let args = ["run", "recipe.toml", "--out", "out", "--set", "select.margin=50"];
    tiny.expect(&args, 1, &["funnel: ", "passed by reward: tiny 0", "margin"]);
    assert!(!tiny.path("out/selection/stage.json").exists());
}

#[test]
#[cfg(unix)]
fn interrupted_and_killed_runs_resume_to_the_same_weights() {
    use std::process::{Command, Stdio};
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    let tiny = Tiny::new();
    let set =
        ["--set", "train.steps=60", "--set", "train.batch=16", "--set", "control.enabled=false"];
    let args = |out| [&["run", "recipe.toml", "--out", out][..], &set].concat();
    tiny.expect(&args("whole"), 0, &[]);
    let start = |out: &'static str| {
        Command::new(env!("CARGO_BIN_EXE_craft"))
            .args(args(out))
            .current_dir(tiny.path("."))
            .env("CRAFT_POCKET_DIR", tiny.path("model"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    for (out, signal, code) in [("stopped", "-INT", Some(130)), ("killed", "-KILL", None)] {
        let mut child = start(out);
        let metrics = tiny.path(out).join("metrics.jsonl");
        let begun = Instant::now();
        // Stop it in the middle of training.
        while fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 5 {
            assert!(
                begun.elapsed() < Duration::from_secs(120) && child.try_wait().unwrap().is_none()
            );
            sleep(Duration::from_millis(2));
        }
        let kill = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        assert_eq!(child.wait().unwrap().code(), code);
        assert!(!tiny.path(out).join("aligned/stage.json").exists());
        tiny.expect(&args(out), 0, &[]);
        same_results(&tiny.path("whole"), &tiny.path(out));
    }
}
