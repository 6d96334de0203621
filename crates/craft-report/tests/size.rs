//! Reports of runs with many prompts: the page and the memory do not grow with them.
#![allow(clippy::unwrap_used, missing_docs, clippy::disallowed_methods, clippy::print_stdout)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Instant;

use craft_report::{encode_png, write_report};
use craft_store::shards::{Layout, PictureWriter};
use serde_json::{Value, json};

/// Wordings of a prompt, the prompt itself among them.
const WORDINGS: usize = 5;

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A number between 0 and 1 that looks like noise.
fn noise(i: usize) -> f64 {
    let x = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> 11) as f64 / (1u64 << 53) as f64
}

/// A PNG of 7 kB.
fn picture() -> Vec<u8> {
    let rgb: Vec<u8> = (0..48 * 48 * 3).map(|i| (noise(i) * 256.0) as u8).collect();
    encode_png(&rgb, 48, 48).unwrap()
}

/// A run of so many training prompts of five candidates each, every tenth prompt with a selected one; all
/// pictures are links to one.
fn folder(run: &Path, prompts: usize, recipe: &str, shards: bool) {
    let (mut words, mut drawn, mut scored, mut judged) =
        (String::new(), String::new(), String::new(), String::new());
    let images = run.join("candidates/images");
    fs::create_dir_all(&images).unwrap();
    let png = picture();
    let layout = if shards { Layout::Shards(64) } else { Layout::Files };
    let store = PictureWriter::open(&images, layout, prompts * WORDINGS).unwrap();
    // A file has not more than some 65,000 names.
    let first = |p: usize| run.join(format!("{}.png", p / 5_000));
    for p in 0..prompts {
        let prompt = format!("p{p:06}");
        if p % 5_000 == 0 {
            fs::write(first(p), &png).unwrap();
        }
        let text = format!("a photograph of subject {p} in the morning light, wide angle");
        let row = json!({"id": prompt, "text": text, "split": "train"});
        writeln!(words, "{row}").unwrap();
        for v in 0..WORDINGS {
            let i = p * WORDINGS + v;
            let id = format!("{prompt}-v{v:02}-s0");
            let image = format!("images/{id}.png");
            if shards {
                store.has(i, &id).unwrap();
                store.put(i, &id, &png).unwrap();
            } else {
                fs::hard_link(first(p), run.join("candidates").join(&image)).unwrap();
            }
            let row = json!({"id": id, "prompt_id": prompt, "variant": v, "sample": 0,
                "text": format!("{text}, wording {v}"), "image": image});
            writeln!(drawn, "{row}").unwrap();
            let scores = [noise(3 * i), noise(3 * i + 1), noise(3 * i + 2)];
            let row = json!({"id": id, "scores": {"a": scores[0], "b": scores[1], "c": scores[2]}});
            writeln!(scored, "{row}").unwrap();
            if v > 0 {
                let selected = p % 10 == 7 && v == 1;
                let row = json!({"id": id, "prompt_id": prompt, "variant": v, "sample": 0,
                    "passed_by": {"a": selected, "b": selected, "c": true}, "passed": selected,
                    "reason": (!selected).then_some("rose on 1 of 3 rewards: 3 needed"),
                    "total": scores[0], "advantage": scores[1], "weight": f64::from(u8::from(selected)),
                    "selected": selected});
                writeln!(judged, "{row}").unwrap();
            }
        }
    }
    write(&run.join("recipe.toml"), recipe);
    write(&run.join("run.json"), r#"{"seconds": {"total": 1.0}, "peak_rss_bytes": 1}"#);
    write(&run.join("prompts/prompts.jsonl"), &words);
    write(&run.join("candidates/candidates.jsonl"), &drawn);
    write(&run.join("rewards/rewards.jsonl"), &scored);
    write(&run.join("selection/selection.jsonl"), &judged);
}

fn report(run: &Path) -> (String, Value) {
    let html = fs::read_to_string(write_report(run).unwrap()).unwrap();
    let start = html.find("id=\"data\">").unwrap() + "id=\"data\">".len();
    let end = start + html[start..].find("</script>").unwrap();
    let data = serde_json::from_str(&html[start..end]).unwrap();
    (html, data)
}

/// Pictures beside the page.
fn copied(run: &Path) -> usize {
    fs::read_dir(run.join("report/images/candidates")).map_or(0, Iterator::count)
}

#[test]
fn a_page_shows_so_many_prompts_and_counts_them_all() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = [2_100usize, 4_000].map(|prompts| {
        let run = dir.path().join(prompts.to_string());
        folder(&run, prompts, "seed = 1\n", false);
        let (html, data) = report(&run);
        let rows = data["prompts"].as_array().unwrap();
        assert_eq!(rows.len(), 2_000);
        let selected =
            |row: &&Value| row["c"].as_array().unwrap().iter().any(|c| c["sel"] == json!(true));
        assert_eq!(rows.iter().filter(selected).count(), prompts / 10, "selected ones come first");
        let all = prompts * WORDINGS;
        for words in [
            format!("2000 of {prompts} prompts"),
            format!("over all {all} candidates"),
            format!("{} of {prompts} prompts have a candidate that passed", prompts / 10),
            format!("histogram of {} values", prompts / 10),
        ] {
            assert!(html.contains(&words), "{words}");
        }
        assert_eq!(copied(&run), 2_000 * WORDINGS, "pictures that are shown, and no others");
        html.len()
    });
    assert!(bytes[1].abs_diff(bytes[0]) < bytes[0] / 50, "{bytes:?}");
    assert!(bytes[1] < 10_000_000, "{bytes:?}");
}

#[test]
fn the_recipe_says_how_many_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), 60, "[report]\nmax_prompts = 10\n", false);
    let (html, data) = report(dir.path());
    assert_eq!(data["prompts"].as_array().unwrap().len(), 10);
    assert!(html.contains("10 of 60 prompts"));
}

#[test]
fn pictures_of_shards_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), 40, "[report]\nmax_prompts = 12\n", true);
    let (html, data) = report(dir.path());
    assert!(!html.contains("cannot be shown"));
    let address = data["prompts"][3]["c"][2]["i"].as_str().unwrap();
    let picture = fs::read(dir.path().join("report").join(address)).unwrap();
    assert_eq!(picture, self::picture());
    assert_eq!(copied(dir.path()), 12 * WORDINGS);
}

/// `cargo test --release -p craft-report --test size -- --ignored --nocapture`: figures of 10⁵ candidates.
#[test]
#[ignore = "a measurement: makes folders of 100,000 pictures"]
fn a_hundred_thousand_candidates() {
    let dir = tempfile::tempdir().unwrap();
    for prompts in [2_000, 6_000, 20_000] {
        let run = dir.path().join(prompts.to_string());
        folder(&run, prompts, "seed = 1\n", false);
        craft_store::meter::forget_peak_rss();
        let clock = Instant::now();
        let page = write_report(&run).unwrap();
        let (seconds, peak) =
            (clock.elapsed().as_secs_f64(), craft_store::meter::peak_rss_bytes().unwrap_or(0));
        let bytes = fs::metadata(page).unwrap().len();
        println!(
            "{} candidates: page {bytes} bytes, peak {peak} bytes, {seconds:.1} s",
            prompts * WORDINGS
        );
        assert!(bytes < 10_000_000 && peak < 300_000_000, "{bytes} {peak}");
    }
}
