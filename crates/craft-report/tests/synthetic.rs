//! Reports of synthetic run folders, read back and checked part by part.
#![allow(clippy::unwrap_used, missing_docs, clippy::disallowed_methods)]

mod folder;

use std::fs;
use std::path::Path;

use craft_report::{ReportError, write_report};
use folder::{Options, write_folder};
use serde_json::Value;

struct Page {
    html: String,
    data: Value,
}

fn page_of(dir: &Path) -> Page {
    let path = write_report(dir).unwrap();
    assert_eq!(path, dir.join("report/index.html"));
    let html = fs::read_to_string(path).unwrap();
    let start = html.find("id=\"data\">").unwrap() + "id=\"data\">".len();
    let end = start + html[start..].find("</script>").unwrap();
    let data = serde_json::from_str(&html[start..end]).unwrap();
    Page { html, data }
}

impl Page {
    /// The text of one section, tags taken out.
    fn section(&self, id: &str) -> String {
        let start = self
            .html
            .find(&format!("<section id=\"{id}\""))
            .unwrap_or_else(|| panic!("no section {id}"));
        let end = start + self.html[start..].find("</section>").unwrap();
        let mut out = String::new();
        let mut inside = false;
        for c in self.html[start..end].chars() {
            match c {
                '<' => inside = true,
                '>' => {
                    inside = false;
                    out.push(' ');
                }
                c if !inside => out.push(c),
                _ => {}
            }
        }
        out.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn raw(&self, id: &str) -> &str {
        let start = self.html.find(&format!("<section id=\"{id}\"")).unwrap();
        &self.html[start..start + self.html[start..].find("</section>").unwrap()]
    }
}

fn build(options: &Options) -> (tempfile::TempDir, Page) {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    write_folder(&run, options);
    let page = page_of(&run);
    (dir, page)
}

#[test]
fn a_full_run_shows_every_part() {
    let (_dir, page) = build(&Options { eval: 56, side: 16, ..Options::default() });
    let verdict = page.section("verdict");
    for part in [
        "It worked: held-out quality rose, and by more than in the random control",
        "of pictures got better",
        "standard deviations of the base model",
        "held-out win rate, pocket-ir",
        "Rewards trained on",
        "Held-out rewards",
        "Checker",
        "95 % interval",
        "1 min 40 s",
        "120",
        "Signs of reward hacking: 1 of 7 lit",
        "saturation: +20 % against base (look)",
    ] {
        assert!(verdict.contains(part), "{part:?} is not in {verdict}");
    }
    let funnel = page.section("funnel");
    for part in [
        "candidates drawn 120",
        "other wordings, judged 96",
        "passed pocket-hps",
        "selected to train on",
        "rewards: score is not finite (first: p00003-v02-s0)",
        "pocket-pick … is not above …",
        "How rewards agree",
    ] {
        assert!(funnel.contains(part), "{part:?} is not in {funnel}");
    }
    let training = page.section("training");
    for part in ["control: 40 steps, 1280 pictures seen, in 16.0 s", "craft: 40 steps"] {
        assert!(training.contains(part), "{part:?} is not in {training}");
    }
    assert_eq!(page.raw("training").matches("<svg").count(), 3);
    assert_eq!(page.raw("distributions").matches("<svg").count(), 4 * 3);
    let points = page.raw("distributions").matches("class=\"point").count();
    assert!(
        (3 * 112..4 * 112).contains(&points),
        "all pairs of three rewards; those of the checker share places: {points}"
    );
    assert!(page.section("checks").contains("colour"));
    let provenance = page.section("provenance");
    for part in [
        "seed = 7",
        "craft run run/recipe.toml",
        "generate v2",
        "0.1.0",
        "candidates 120",
        "peak_rss_bytes",
    ] {
        assert!(provenance.contains(part), "{part:?} is not in {provenance}");
    }
    assert!(!page.html.contains("this run lacks"));
    assert!(!page.html.contains("not in this run"), "a full run has every part");
}

#[test]
fn gallery_and_drill_down_have_all_pictures() {
    let (_dir, page) = build(&Options::default());
    let pairs = page.data["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 32);
    for pair in pairs {
        for model in ["base", "tuned", "control"] {
            assert!(pair["i"][model].as_str().unwrap().starts_with("data:image/png;base64,"));
            assert_eq!(
                pair["v"][model].as_array().unwrap().len(),
                page.data["rewards"].as_array().unwrap().len()
            );
        }
    }
    let roles: Vec<(&str, &str)> = page.data["rewards"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["name"].as_str().unwrap(), r["role"].as_str().unwrap()))
        .collect();
    assert_eq!(
        roles,
        [
            ("pocket-ir", "held"),
            ("pocket-hps", "trained"),
            ("pocket-pick", "trained"),
            ("checker", "checker")
        ]
    );
    let prompts = page.data["prompts"].as_array().unwrap();
    assert_eq!(prompts.len(), 24);
    let candidates: Vec<&Value> = prompts.iter().flat_map(|p| p["c"].as_array().unwrap()).collect();
    assert_eq!(candidates.len(), 120);
    assert!(candidates.iter().all(|c| c["i"].is_string()));
    assert!(candidates.iter().any(|c| c["sel"] == true && c["w"].as_f64().unwrap() > 0.0));
    assert!(candidates.iter().any(|c| c["why"].is_string()));
    assert!(candidates.iter().any(|c| c["m"]["pocket-pick"] == "non-finite score (NaN)"));
    assert!(candidates.iter().any(|c| c["ctl"] == true));
}

#[test]
fn the_page_needs_no_network_and_cannot_be_broken_by_a_prompt() {
    let (_dir, page) = build(&Options::default());
    assert!(page.html.contains("\\u003c/script>"), "the evil prompt is there, escaped");
    assert_eq!(page.html.matches("</script>").count(), 2);
    assert!(!page.html.contains("<img src=x"));
    for outside in ["http://", "https://", "src=\"//", "@import", "url("] {
        assert!(!page.html.contains(outside), "{outside}");
    }
}

#[test]
fn same_folder_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    write_folder(&run, &Options::default());
    assert_eq!(page_of(&run).html, page_of(&run).html);
    assert!(!run.join("report/index.html.tmp").exists());
}

#[test]
fn honest_words_when_nothing_is_shown() {
    let (_dir, page) = build(&Options { gain: 0.0, ..Options::default() });
    let verdict = page.section("verdict");
    assert!(verdict.contains("Not shown to work"), "{verdict}");
    assert!(verdict.contains("The interval includes zero"), "{verdict}");
    assert!(
        verdict.contains("it is not shown that the filter did more than a random pick"),
        "{verdict}"
    );

    let (_dir, page) = build(&Options { gain: -1.0, ..Options::default() });
    assert!(page.section("verdict").contains("It did not work: held-out quality fell"));
}

#[test]
fn missing_parts_are_named_and_nothing_crashes() {
    let (_dir, page) = build(&Options { control: false, ..Options::default() });
    assert!(page.section("verdict").contains("no random control in this run"));
    assert!(page.section("gallery").contains("Random control: not in this run"));
    assert!(page.section("training").contains("random control: not in this run"));

    let (_dir, page) = build(&Options { evaluation: false, ..Options::default() });
    assert!(page.section("verdict").contains("No verdict yet"));
    for id in ["gallery", "distributions", "checks"] {
        assert!(page.section(id).contains("not in this run"), "{id}");
    }
    assert!(page.section("funnel").contains("selected to train on"));
}

#[test]
fn every_single_file_may_be_missing() {
    let files = [
        "recipe.toml",
        "run.json",
        "metrics.jsonl",
        "prompts/prompts.jsonl",
        "rewards/rewards.jsonl",
        "selection/selection.jsonl",
        "selection/control.jsonl",
        "candidates/candidates.jsonl",
        "candidates/stage.json",
        "evaluation/samples.jsonl",
        "evaluation/evaluation.json",
        "evaluation/images/tuned/p10100-s0.png",
    ];
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        let run = dir.path().join(file.replace('/', "-"));
        write_folder(&run, &Options::default());
        fs::remove_file(run.join(file)).unwrap();
        let page = page_of(&run);
        assert!(page.html.contains("<section id=\"provenance\""), "{file}");
    }
}

#[test]
fn torn_files_name_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    write_folder(&run, &Options::default());
    let path = run.join("rewards/rewards.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let cut: Vec<&str> =
        text.lines().enumerate().map(|(i, l)| if i == 4 { &l[..l.len() / 2] } else { l }).collect();
    fs::write(&path, cut.join("\n")).unwrap();
    let error = write_report(&run).unwrap_err();
    assert!(matches!(&error, ReportError::BadLine { line: 5, .. }), "{error}");
    assert!(error.to_string().contains("rewards.jsonl` line 5: EOF while parsing"), "{error}");
    fs::write(&path, text).unwrap();

    let path = run.join("evaluation/evaluation.json");
    fs::write(&path, "{\"rewards\": 3}").unwrap();
    let error = write_report(&run).unwrap_err();
    assert!(
        matches!(&error, ReportError::BadFile { .. })
            && error.to_string().contains("evaluation.json"),
        "{error}"
    );
}

#[test]
fn what_the_report_can_do_without_becomes_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    write_folder(&run, &Options::default());
    let metrics = run.join("metrics.jsonl");
    let text = fs::read_to_string(&metrics).unwrap();
    fs::write(&metrics, &text[..text.len() - 9]).unwrap();
    let picture = run.join("evaluation/images/tuned/p10100-s0.png");
    let bytes = fs::read(&picture).unwrap();
    fs::write(&picture, &bytes[..bytes.len() / 2]).unwrap();
    fs::write(run.join("rewards/stage.json"), "{").unwrap();
    fs::write(run.join("run.json"), "{").unwrap();
    let page = page_of(&run);
    for note in [
        "the last line of metrics.jsonl is cut",
        "evaluation/images/tuned/p10100-s0.png is neither a whole PNG",
        "rewards/stage.json cannot be read",
        "run.json does not parse",
    ] {
        assert!(page.html.contains(note), "{note}");
    }
}

#[test]
fn numbers_that_disagree_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    write_folder(&run, &Options::default());
    let path = run.join("evaluation/evaluation.json");
    let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    value["rewards"]["pocket-ir"]["tuned"] = Value::from(9.0);
    fs::write(&path, value.to_string()).unwrap();
    assert!(
        page_of(&run)
            .html
            .contains("evaluation.json says that the mean pocket-ir of tuned is 9.00")
    );
}

#[test]
fn large_pictures_are_copied_beside_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    write_folder(&run, &Options { side: 160, ..Options::default() });
    fs::create_dir_all(run.join("report/images/old")).unwrap();
    let page = page_of(&run);
    let address = page.data["pairs"][0]["i"]["tuned"].as_str().unwrap();
    assert_eq!(address, "images/evaluation/tuned/p10100-s0.png");
    assert_eq!(
        fs::read(run.join("report").join(address)).unwrap(),
        fs::read(run.join("evaluation/images/tuned/p10100-s0.png")).unwrap()
    );
    assert!(!run.join("report/images/old").exists(), "pictures of an earlier report are gone");
}

#[test]
fn folders_that_are_no_runs() {
    let dir = tempfile::tempdir().unwrap();
    let error = write_report(&dir.path().join("nothing")).unwrap_err();
    assert!(matches!(error, ReportError::NotARunFolder { .. }), "{error}");
    let error = write_report(dir.path()).unwrap_err();
    assert!(matches!(error, ReportError::NothingToReport { .. }), "{error}");
    assert!(!dir.path().join("report").exists(), "nothing is left behind");
}

/// Writes a folder to look at in a browser: `CRAFT_REPORT_LOOK=/some/dir cargo test -p craft-report -- --ignored look`.
#[test]
#[ignore = "for looking at the page by hand"]
fn look() {
    let Ok(dir) = std::env::var("CRAFT_REPORT_LOOK") else {
        return;
    };
    let dir = Path::new(&dir);
    write_folder(&dir.join("full"), &Options::default());
    write_folder(
        &dir.join("bare"),
        &Options { control: false, evaluation: false, ..Options::default() },
    );
    write_folder(&dir.join("flat"), &Options { gain: 0.0, side: 160, ..Options::default() });
    let large = Options { train: 640, ..Options::default() };
    write_folder(&dir.join("large"), &large);
    for name in ["full", "bare", "flat", "large"] {
        write_report(&dir.join(name)).unwrap();
    }
}
