//! A generator of run folders that look like those of a real run.

use std::fs;
use std::path::Path;

use craft_report::encode_png;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

/// What the folder holds.
pub(crate) struct Options {
    pub(crate) control: bool,
    pub(crate) evaluation: bool,
    /// Mean gain of tuned over base, in tenths of a reward unit.
    pub(crate) gain: f64,
    /// Evaluation prompts, with two seeds each.
    pub(crate) eval: usize,
    /// Training prompts, with five candidates each.
    pub(crate) train: usize,
    /// Side of the pictures in pixels.
    pub(crate) side: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { control: true, evaluation: true, gain: 1.0, eval: 16, side: 64, train: 24 }
    }
}

const COLOURS: [(&str, [u8; 3]); 6] = [
    ("red", [214, 48, 49]),
    ("green", [39, 174, 96]),
    ("blue", [41, 98, 221]),
    ("yellow", [241, 196, 15]),
    ("purple", [142, 68, 173]),
    ("orange", [230, 126, 34]),
];
const SHAPES: [&str; 4] = ["circle", "square", "triangle", "star"];
const DETAILS: [&str; 4] = [
    "",
    ", vivid colours, crisp edges",
    ", centred on a clean background",
    ", sharp, well lit, balanced",
];
const TRAINED: [&str; 2] = ["pocket-hps", "pocket-pick"];

struct Dice(ChaCha8Rng);

impl Dice {
    fn uniform(&mut self) -> f64 {
        f64::from(self.0.next_u32()) / f64::from(u32::MAX)
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

pub(crate) fn write_folder(run: &Path, options: &Options) {
    let mut dice = Dice(ChaCha8Rng::seed_from_u64(11));
    let text = |i: usize| match i {
        5 => "a </script><img src=x onerror=alert(1)> & \"quoted\" circle".to_owned(),
        _ => format!("a {} {}", COLOURS[i % 6].0, SHAPES[(i / 6) % 4]),
    };
    fs::create_dir_all(run).unwrap();
    fs::write(run.join("recipe.toml"), "# resolved\nseed = 7\n\n[sample]\nsteps = 20\nguidance_scale = 4.0\n\n[train]\nlr = 5e-5\n\n[select]\nmax_samples = 30\n").unwrap();
    let ids = |range: std::ops::Range<usize>| {
        range.map(|i| (format!("p{i:05}"), text(i))).collect::<Vec<_>>()
    };
    let (train, eval) = (ids(0..options.train), ids(10_100..10_100 + options.eval));
    let mut prompts: Vec<Value> = train
        .iter()
        .map(|(id, t)| json!({"id": id, "text": t, "split": "train", "category": "single"}))
        .collect();
    prompts.extend(
        eval.iter()
            .map(|(id, t)| json!({"id": id, "text": t, "split": "eval", "category": "single"})),
    );
    lines(&run.join("prompts/prompts.jsonl"), &prompts);
    candidates(run, &train, options, &mut dice);
    training(run, options, &mut dice);
    if options.evaluation {
        evaluation(run, &eval, options, &mut dice);
    }
    let summary = json!({"seconds": {"generate": 61.0, "train": 28.5, "total": 100.0}, "peak_rss_bytes": 1_288_490_188u64,
        "counts": {"prompts": 24, "candidates": 120}});
    fs::write(run.join("run.json"), summary.to_string()).unwrap();
    for (folder, stage, seconds, counts, dropped) in [
        ("prompts", "prompts", 0.1, json!({"prompts": 40}), json!([])),
        ("candidates", "generate", 61.0, json!({"candidates": 120}), json!([])),
        (
            "rewards",
            "score",
            4.2,
            json!({"scored": 119}),
            json!([{"id": "p00003-v02-s0", "reason": "score is not finite"}]),
        ),
        ("selection", "select", 0.1, json!({"selected": 30}), json!([])),
        ("aligned", "train", 28.5, json!({"steps": 40}), json!([])),
        ("evaluation", "evaluate", 18.0, json!({"pictures": 96}), json!([])),
    ] {
        let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let stage = json!({"stage": stage, "version": 2, "code_version": "0.1.0", "config_hash": hash, "inputs": {"prompts": hash},
            "outputs": {"candidates.jsonl": {"bytes": 20480, "sha256": hash}, "images/a.png": {"bytes": 1, "sha256": hash}},
            "counts": counts, "dropped": dropped, "seconds": seconds});
        write(&run.join(folder).join("stage.json"), stage.to_string().as_bytes());
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn lines(path: &Path, rows: &[Value]) {
    let text: String = rows.iter().map(|r| format!("{r}\n")).collect();
    write(path, text.as_bytes());
}

/// A disc on a ground with noise; `quality` between 0 and 1 makes it cleaner.
fn picture(path: &Path, side: usize, colour: usize, quality: f64, dice: &mut Dice) {
    let (s, ink) = (side as f64, COLOURS[colour % 6].1);
    let (cx, cy) = (s / 2.0 + dice.normal() * s * 0.06, s / 2.0 + dice.normal() * s * 0.06);
    let mut rgb = Vec::with_capacity(side * side * 3);
    for y in 0..side {
        for x in 0..side {
            let inside = (x as f64 - cx).hypot(y as f64 - cy) < s * 0.28;
            let noise = dice.normal() * 50.0 * (1.0 - quality);
            for c in ink {
                let v = if inside { f64::from(c) } else { 226.0 };
                rgb.push((v + noise).clamp(0.0, 255.0) as u8);
            }
        }
    }
    write(path, &encode_png(&rgb, side, side).unwrap());
}

fn candidates(run: &Path, train: &[(String, String)], options: &Options, dice: &mut Dice) {
    let (mut cands, mut rewards, mut selection, mut control) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (p, (prompt, text)) in train.iter().enumerate() {
        let base = [0.25 + 0.02 * dice.normal(), 0.22 + 0.02 * dice.normal()];
        let original: Vec<f64> = base.iter().map(|b| b + 0.01 * dice.normal()).collect();
        for v in 0..5usize {
            let id = format!("{prompt}-v{v:02}-s0");
            let image = format!("images/{id}.png");
            let quality = (0.4 + 0.1 * v as f64 + 0.15 * dice.normal()).clamp(0.0, 1.0);
            picture(&run.join("candidates").join(&image), options.side, p, quality, dice);
            let wording = format!("{text}{}", if v == 0 { "" } else { DETAILS[v % 4] });
            cands.push(json!({"id": id, "prompt_id": prompt, "variant": v, "sample": 0, "text": wording, "image": image}));
            let score: Vec<f64> = if v == 0 {
                original.clone()
            } else {
                base.iter().map(|b| b + 0.004 + 0.012 * dice.normal()).collect()
            };
            let broken = prompt == "p00003" && v == 2;
            rewards.push(if broken {
                json!({"id": id, "scores": {"pocket-hps": score[0]}, "missing": {"pocket-pick": {"kind": "non-finite", "detail": "NaN"}}})
            } else {
                json!({"id": id, "scores": {"pocket-hps": score[0], "pocket-pick": score[1]}})
            });
            if v == 0 {
                continue;
            }
            let passed: Vec<bool> =
                score.iter().zip(&original).map(|(s, o)| s > o && !broken).collect();
            let ok = passed.iter().all(|p| *p);
            let advantage = dice.normal().abs();
            let selected = ok && advantage > 0.5;
            let reason = match (broken, passed[0], passed[1]) {
                (true, ..) => Some("pocket-pick is missing: score is not finite".to_owned()),
                (_, false, _) => {
                    Some(format!("pocket-hps {:.4} is not above {:.4}", score[0], original[0]))
                }
                (_, _, false) => {
                    Some(format!("pocket-pick {:.4} is not above {:.4}", score[1], original[1]))
                }
                _ if !selected => Some("over the budget of samples".to_owned()),
                _ => None,
            };
            selection.push(json!({"id": id, "prompt_id": prompt, "variant": v, "sample": 0, "passed_by": {"pocket-hps": passed[0], "pocket-pick": passed[1]},
                "passed": ok, "reason": reason, "total": if broken { Value::Null } else { json!(score[0] * 40.0 - 10.0) }, "advantage": if broken { Value::Null } else { json!(advantage) },
                "weight": if selected { advantage } else { 0.0 }, "selected": selected}));
            if options.control && dice.uniform() < 0.25 {
                control.push(json!({"id": id, "prompt_id": prompt, "weight": 1.0}));
            }
        }
    }
    lines(&run.join("candidates/candidates.jsonl"), &cands);
    lines(&run.join("rewards/rewards.jsonl"), &rewards);
    lines(&run.join("selection/selection.jsonl"), &selection);
    if options.control {
        lines(&run.join("selection/control.jsonl"), &control);
    }
}

fn training(run: &Path, options: &Options, dice: &mut Dice) {
    let mut rows = Vec::new();
    for name in ["craft", "control"].into_iter().take(if options.control { 2 } else { 1 }) {
        for step in 1..=40u64 {
            let t = step as f64;
            rows.push(json!({"run": name, "step": step, "loss": 0.12 + 0.1 * (-t / 12.0).exp() + 0.012 * dice.normal(), "grad_norm": 0.6 + 0.1 * dice.normal(),
                "lr": 5e-5 * (t / 5.0).min(1.0), "nimg": step * 32, "skipped": 0, "seconds": 0.4 * t}));
        }
    }
    lines(&run.join("metrics.jsonl"), &rows);
}

fn evaluation(run: &Path, eval: &[(String, String)], options: &Options, dice: &mut Dice) {
    let models: &[&str] =
        if options.control { &["base", "tuned", "control"] } else { &["base", "tuned"] };
    let names = ["pocket-hps", "pocket-pick", "pocket-ir"];
    let mut samples = Vec::new();
    for (p, (prompt, text)) in eval.iter().enumerate() {
        for s in 0..2usize {
            let level: Vec<f64> = names.iter().map(|_| 0.3 * dice.normal()).collect();
            for model in models {
                let image = format!("images/{model}/{prompt}-s{s}.png");
                let step = match *model {
                    "tuned" => 0.1 * options.gain,
                    "control" => 0.02 * options.gain,
                    _ => 0.0,
                };
                picture(
                    &run.join("evaluation").join(&image),
                    options.side,
                    p + 100,
                    (0.5 + 3.0 * step).clamp(0.0, 1.0),
                    dice,
                );
                let mut scores: Map<String, Value> = names
                    .iter()
                    .zip(&level)
                    .map(|(n, l)| ((*n).to_owned(), json!(l + step + 0.08 * dice.normal())))
                    .collect();
                let facts: Vec<Value> = ["shape", "colour", "count"].into_iter()
                    .map(|k| json!({"kind": k, "fact": format!("the {k} of {text} is right"), "passed": dice.uniform() < 0.8 + step})).collect();
                let right = facts.iter().filter(|f| f["passed"] == true).count();
                scores.insert("checker".to_owned(), json!(right as f64 / 3.0));
                samples.push(json!({"prompt_id": prompt, "text": text, "sample": s, "model": model, "image": image, "scores": scores, "facts": facts}));
            }
        }
    }
    lines(&run.join("evaluation/samples.jsonl"), &samples);
    let mean = |name: &str, model: &str| {
        let v: Vec<f64> = samples
            .iter()
            .filter(|s| s["model"] == model)
            .map(|s| s["scores"][name].as_f64().unwrap())
            .collect();
        v.iter().sum::<f64>() / v.len().max(1) as f64
    };
    let mut rewards = Map::new();
    for name in ["pocket-hps", "pocket-pick", "pocket-ir", "checker"] {
        let (b, t, c) = (mean(name, "base"), mean(name, "tuned"), mean(name, "control"));
        let half = if name == "checker" { 0.08 } else { 0.035 };
        // What a bootstrap would give around the drawn gain, so that the words under test do not hang on luck.
        let centre = if name == "checker" { t - b } else { 0.1 * options.gain };
        let mut row = json!({"base": b, "tuned": t, "control": null, "delta": t - b, "ci95": [centre - half, centre + half],
            "win_rate": (0.5 + 0.3 * options.gain).clamp(0.0, 1.0), "ties": 0.01, "trained_on": TRAINED.contains(&name), "control_delta": null, "control_ci95": null, "tuned_minus_control": null});
        if options.control {
            row["control"] = json!(c);
            row["control_delta"] = json!(c - b);
            row["control_ci95"] = json!([c - b - half, c - b + half]);
            row["tuned_minus_control"] = json!({"delta": t - c, "ci95": [0.8 * centre - half, 0.8 * centre + half], "win_rate": 0.7});
        }
        rewards.insert(name.to_owned(), row);
    }
    let control = |v: f64| {
        if options.control { json!(v) } else { Value::Null }
    };
    let mut kinds = Map::new();
    for kind in ["shape", "colour", "count"] {
        let rate = |model: &str| {
            let v: Vec<bool> = samples
                .iter()
                .filter(|s| s["model"] == model)
                .flat_map(|s| s["facts"].as_array().unwrap())
                .filter(|f| f["kind"] == kind)
                .map(|f| f["passed"] == true)
                .collect();
            v.iter().filter(|p| **p).count() as f64 / v.len().max(1) as f64
        };
        kinds.insert(kind.to_owned(), json!({"base": rate("base"), "tuned": rate("tuned"), "control": control(rate("control")), "n": 32}));
    }
    let drift = |b: f64, t: f64| json!({"base": b, "tuned": t, "control": control(b * 1.01)});
    let value = json!({"rewards": rewards, "checker_by_kind": kinds, "drift": {"saturation": drift(0.30, 0.36), "brightness": drift(0.61, 0.62),
        "contrast": drift(0.2, 0.205), "sharpness": drift(0.08, 0.083), "high_frequency": drift(0.05, 0.048)}, "diversity": drift(0.18, 0.175),
        "prompts": eval.len(), "samples_per_prompt": 2});
    write(
        &run.join("evaluation/evaluation.json"),
        serde_json::to_string_pretty(&value).unwrap().as_bytes(),
    );
}
