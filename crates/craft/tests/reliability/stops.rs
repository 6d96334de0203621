//! Stopped and killed at any moment, a run loses the batch at work at most, and ends as if it had not been.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{Process, pictures, same_results};
use crate::support::Tiny;

/// A run of some seconds: many steps, small batches.
const LONG: [&str; 10] = [
    "--set",
    "generate.steps=40",
    "--set",
    "generate.batch=4",
    "--set",
    "train.steps=24",
    "--set",
    "train.batch=16",
    "--set",
    "evaluate.steps=40",
];

fn run<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["run", "recipe.toml", "--out", out], more].concat()
}

/// Every picture that has its name is whole.
#[track_caller]
fn all_readable(dir: &Path) -> usize {
    let found = pictures(dir);
    for path in found.keys() {
        craft_store::image::read(path).unwrap();
    }
    found.len()
}

/// No file of an unfinished write is left after a run that ended.
#[track_caller]
fn nothing_left(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let unfinished = name.ends_with(".tmp") || name.ends_with(".partial");
        assert!(!unfinished, "{} was left", path.display());
        if path.is_dir() {
            nothing_left(&path);
        }
    }
}

#[test]
fn what_is_drawn_is_there_at_once_and_is_never_drawn_again() {
    let tiny = Tiny::new();
    tiny.expect(&run("whole", &LONG), 0, &[]);
    for (out, signal, code) in [("stopped", "-INT", Some(130)), ("killed", "-KILL", None)] {
        let images = tiny.path(out).join("candidates/images");
        let mut process = Process::start(&tiny, &run(out, &LONG));
        process.until(|| pictures(&images).len() >= 9);
        // They can be looked at while the run goes on.
        assert!(all_readable(&images) >= 8);
        assert!(process.signal(signal));
        assert_eq!(process.end(), code);
        let kept = pictures(&images);
        assert!(kept.len() < 32, "it was stopped on the way");
        all_readable(&images);
        // Now in the evaluation.
        let evaluated = tiny.path(out).join("evaluation/images");
        let mut process = Process::start(&tiny, &run(out, &LONG));
        process.until(|| pictures(&evaluated).len() >= 5);
        assert!(process.signal(signal));
        assert_eq!(process.end(), code);
        let now = pictures(&images);
        assert!(kept.iter().all(|(path, of)| now.get(path) == Some(of)), "drawn again");
        let kept = pictures(&evaluated);
        assert!(kept.len() < 12, "it was stopped on the way");
        all_readable(&evaluated);
        tiny.expect(&run(out, &LONG), 0, &["generate: already done", "train: already done"]);
        let now = pictures(&evaluated);
        assert!(kept.iter().all(|(path, of)| now.get(path) == Some(of)), "drawn again");
        same_results(&tiny.path("whole"), &tiny.path(out));
        nothing_left(&tiny.path(out));
    }
    // Another batch size finds the pictures of the first.
    let images = tiny.path("other").join("candidates/images");
    let mut process = Process::start(&tiny, &run("other", &LONG));
    process.until(|| pictures(&images).len() >= 9);
    process.signal("-KILL");
    process.end();
    let kept = pictures(&images);
    let text = fs::read_to_string(tiny.path("other/recipe.toml")).unwrap();
    tiny.write("other/recipe.toml", text.replace("batch = 4", "batch = 7"));
    let recipe = tiny.path("other/recipe.toml").to_string_lossy().into_owned();
    tiny.write("again.toml", fs::read(recipe).unwrap());
    tiny.expect(&["run", "again.toml", "--out", "other"], 0, &[]);
    let now = pictures(&images);
    assert!(kept.iter().all(|(path, of)| now.get(path) == Some(of)), "drawn again");
    same_results(&tiny.path("whole"), &tiny.path("other"));
}

/// All candidates in one batch of a thousand steps: a stop that waited for the batch would take as long as
/// the batch does.
#[test]
fn a_stop_is_obeyed_within_a_step() {
    let tiny = Tiny::new();
    let slow = ["--set", "generate.steps=1000", "--set", "generate.batch=32"];
    let log = |process: &Process| process.log().contains("expand:");
    let begun = Instant::now();
    let mut process = Process::start(&tiny, &run("whole", &slow));
    while !log(&process) {
        process.until(|| true);
        sleep(Duration::from_millis(1));
    }
    let start = begun.elapsed();
    process.until(|| !pictures(&tiny.path("whole/candidates")).is_empty());
    let step = (begun.elapsed() - start) / 1000;
    process.signal("-KILL");
    process.end();
    for (out, signal) in [("int", "-INT"), ("term", "-TERM"), ("hup", "-HUP")] {
        let mut process = Process::start(&tiny, &run(out, &slow));
        while !log(&process) {
            process.until(|| true);
            sleep(Duration::from_millis(1));
        }
        // Well within the batch.
        sleep(step * 100);
        let asked = Instant::now();
        assert!(process.signal(signal));
        assert_eq!(process.end(), Some(130), "{signal}");
        let took = asked.elapsed();
        assert!(pictures(&tiny.path(out)).is_empty(), "the batch was not waited for");
        let bound = step * 100 + Duration::from_millis(500);
        assert!(took < bound, "{signal}: {took:?} for a step of {step:?}");
    }
}

/// Training: the state of the last step that was done is kept, whatever was being computed.
#[test]
fn a_stopped_training_keeps_its_last_step() {
    let tiny = Tiny::new();
    let set = [
        "--set",
        "train.steps=40",
        "--set",
        "train.batch=64",
        "--set",
        "train.micro_batch=1",
        "--set",
        "train.checkpoint_every=1000",
        "--set",
        "control.enabled=false",
    ];
    tiny.expect(&run("whole", &set), 0, &[]);
    let metrics = tiny.path("out/metrics.jsonl");
    let lines = || fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
    let mut before = 0;
    for _ in 0..3 {
        let mut process = Process::start(&tiny, &run("out", &set));
        process.until(|| lines() >= before + 3);
        assert!(process.signal("-INT"));
        assert_eq!(process.end(), Some(130));
        let done = lines();
        assert!(done < 40, "it was stopped on the way");
        let state = tiny.path(&format!("out/checkpoints/step-{done}/state.json"));
        let state: Value = serde_json::from_slice(&fs::read(state).unwrap()).unwrap();
        assert_eq!((&state["step"], &state["skipped"]), (&done.into(), &0.into()));
        before = done;
    }
    tiny.expect(&run("out", &set), 0, &[&format!("continuing from step {before}")]);
    same_results(&tiny.path("whole"), &tiny.path("out"));
}

/// The embedded models are built by the same rules.
#[test]
fn a_stopped_build_of_the_embedded_models_goes_on() {
    let tiny = Tiny::new();
    let build = |out| ["pocket", "build", "--out", out, "--scale", "0.002", "tokenizer", "vae"];
    let whole = tiny.path("whole/vae/diffusion_pytorch_model.safetensors");
    tiny.expect(&build("whole"), 0, &[]);
    let mut process = Process::start(&tiny, &build("out"));
    process.until(|| tiny.path("out/tokenizer/merges.txt").exists());
    sleep(Duration::from_millis(700));
    if process.signal("-INT") {
        let code = process.end();
        assert!(code == Some(130) || code == Some(0), "{code:?}");
    }
    tiny.expect(&build("out"), 0, &[]);
    let found = tiny.path("out/vae/diffusion_pytorch_model.safetensors");
    assert!(fs::read(whole).unwrap() == fs::read(found).unwrap());
}

/// Ctrl-C twice, a few milliseconds apart, at moments all over the run.
#[test]
fn a_second_stop_ends_at_once_without_harm() {
    let tiny = Tiny::new();
    let begun = Instant::now();
    tiny.expect(&run("whole", &LONG), 0, &[]);
    let whole = begun.elapsed();
    let mut stopped = 0;
    for i in 1..=6u32 {
        let mut process = Process::start(&tiny, &run("out", &LONG));
        sleep(whole * i / 8);
        if process.signal("-INT") {
            sleep(Duration::from_millis(u64::from(4 * i)));
            let asked = Instant::now();
            process.signal("-INT");
            let code = process.end();
            assert!(code == Some(130) || code == Some(0), "{code:?}");
            assert!(asked.elapsed() < Duration::from_secs(2));
            stopped += usize::from(code == Some(130));
        }
    }
    assert!(stopped >= 2, "{stopped}");
    tiny.expect(&run("out", &LONG), 0, &[]);
    same_results(&tiny.path("whole"), &tiny.path("out"));
    nothing_left(&tiny.path("out/candidates"));
}

/// A number of 0..1 that looks random.
fn fraction(seed: u64) -> f64 {
    let mut x = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Kills a run at random moments until it has been killed so often, each time seeing that no picture is
/// drawn twice and that it ends as one that was not killed.
fn random_kills(wanted: usize) {
    let tiny = Tiny::new();
    let begun = Instant::now();
    tiny.expect(&run("whole", &LONG), 0, &[]);
    let whole = begun.elapsed();
    let (mut kills, mut attempt) = (0, 0);
    while kills < wanted {
        let out = format!("out-{kills}");
        let mut kept = pictures(&tiny.path(&out));
        loop {
            attempt += 1;
            let mut process = Process::start(&tiny, &run(&out, &LONG));
            sleep(whole.mul_f64(fraction(attempt)));
            let killed = process.signal("-KILL");
            let code = process.end();
            let now = pictures(&tiny.path(&out));
            for (path, of) in &kept {
                assert_eq!(now.get(path), Some(of), "attempt {attempt}: {}", path.display());
            }
            all_readable(&tiny.path(&out));
            kept = now;
            kills += usize::from(killed && code.is_none());
            if code == Some(0) {
                break;
            }
            assert!(code.is_none(), "attempt {attempt}: {code:?}");
        }
        same_results(&tiny.path("whole"), &tiny.path(&out));
        nothing_left(&tiny.path(&out).join("candidates"));
        nothing_left(&tiny.path(&out).join("evaluation"));
        fs::remove_dir_all(tiny.path(&out)).unwrap();
    }
}

#[test]
fn killed_at_random_moments_a_run_ends_as_if_it_had_not_been() {
    random_kills(6);
}

#[test]
#[ignore = "takes minutes; by hand: cargo test --release --workspace --test reliability -- --ignored fifty"]
fn fifty_random_kills() {
    random_kills(50);
}
