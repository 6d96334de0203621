//! Rewards by a command, from the recipe to the report: what fails is dropped and counted, or stops the run;
//! what was scored is not scored again; what cannot work is refused before anything starts.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::fs;

use serde_json::Value;
use support::{RECIPE, Tiny};

/// Logs every request and scores a picture by the checksum of its file.
const SCRIPT: &str = r#"
echo start >> starts
while read -r line; do
  printf '%s\n' "$line" >> log
  file=$(printf '%s' "$line" | sed 's/.*"image":"\([^"]*\)".*/\1/')
  case "$line" in
    MATCH) ANSWER;;
    *) echo "{\"score\": $(($(cksum < "$file" | cut -d' ' -f1) % 997))}";;
  esac
done
"#;

/// A folder whose recipe scores with a script that gives `answer` where a request matches `pattern`.
fn tiny(pattern: &str, answer: &str, keys: &str) -> Tiny {
    let tiny = Tiny::new();
    script(&tiny, pattern, answer);
    let source = "weights = \"model/rewards/pocket-hps\"";
    let command = format!("command = [\"sh\", \"score.sh\"]\n{keys}");
    tiny.write("recipe.toml", RECIPE.replace(source, &command));
    tiny
}

fn script(tiny: &Tiny, pattern: &str, answer: &str) {
    tiny.write("score.sh", SCRIPT.replace("MATCH", pattern).replace("ANSWER", answer));
}

fn lines(tiny: &Tiny, file: &str) -> usize {
    fs::read_to_string(tiny.path(file)).unwrap_or_default().lines().count()
}

fn json(tiny: &Tiny, file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(tiny.path(file)).unwrap()).unwrap()
}

const RUN: [&str; 4] = ["run", "recipe.toml", "--out", "out"];

#[test]
fn what_fails_is_dropped_and_counted_and_the_run_goes_on() {
    let tiny = tiny("*'blue square'*", "echo '{\"score\": NaN}'", "version = \"7\"");
    tiny.expect(&RUN, 0, &["32 candidates by tiny; 4 scores are missing"]);
    let stage = json(&tiny, "out/rewards/stage.json");
    assert_eq!(stage["counts"]["missing"], 4);
    assert_eq!(stage["dropped"].as_array().unwrap().len(), 4);
    let reason = stage["dropped"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("tiny: the score is null, NaN or infinite"), "{reason}");
    let rows = fs::read_to_string(tiny.path("out/rewards/rewards.jsonl")).unwrap();
    assert_eq!(rows.lines().filter(|l| l.contains("\"missing\":{\"tiny\"")).count(), 4);
    assert_eq!(rows.lines().filter(|l| l.contains("\"scores\":{\"tiny\"")).count(), 28);
    // None of them is selected, nor is the original compared with as if it had been 0.
    let selection = fs::read_to_string(tiny.path("out/selection/selection.jsonl")).unwrap();
    let rows = selection.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    let blue: Vec<Value> = rows.filter(|row| row["prompt_id"] == "p00001").collect();
    assert_eq!(blue.len(), 3);
    for row in blue {
        assert!(row["selected"] == false && row["total"].is_null(), "{row}");
        assert!(row["reason"].as_str().unwrap().starts_with("no tiny: the score is"), "{row}");
    }
    let page = fs::read_to_string(tiny.path("out/report/index.html")).unwrap();
    assert!(page.contains("NaN or infinite"));
    // Scoring and evaluating each started the program once per model and stage.
    assert_eq!(lines(&tiny, "starts"), 4);
    // The picture's file, whole, for the prompt itself and never for a wording of it.
    let log = fs::read_to_string(tiny.path("log")).unwrap();
    let first: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(first["prompt"], "a red circle");
    assert!(std::path::Path::new(first["image"].as_str().unwrap()).is_absolute());
}

#[test]
fn a_program_that_dies_costs_one_score() {
    let tiny = tiny("*-v02-*'green star'*", "echo 'out of memory' >&2; exit 9", "");
    tiny.expect(&RUN, 0, &["1 scores are missing"]);
    let reason = json(&tiny, "out/rewards/stage.json")["dropped"][0]["reason"].to_string();
    assert!(reason.contains("exit status: 9") && reason.contains("out of memory"), "{reason}");
}

#[test]
fn a_run_can_be_told_to_stop_and_keeps_what_was_scored() {
    let tiny = tiny("*'green star'*", "echo '{\"error\": \"no star\"}'", "on_failure = \"stop\"");
    let words = ["rewards.tiny: no score of", "it says: no star", "on_failure = \"stop\""];
    tiny.expect(&RUN, 1, &words);
    assert!(!tiny.path("out/rewards/rewards.jsonl").exists());
    let asked = lines(&tiny, "log");
    assert_eq!(asked, 9, "8 pictures of two prompts and the first of the third");
    // The failure was not kept: it is asked again, and nothing else is.
    tiny.expect(&RUN, 1, &words);
    assert_eq!(lines(&tiny, "log"), asked + 1);
    script(&tiny, "nothing", "true");
    tiny.expect(&RUN, 0, &[]);
    let log = fs::read_to_string(tiny.path("log")).unwrap();
    let candidates = log.lines().filter(|l| l.contains("out/candidates/")).count();
    assert_eq!(candidates, 8 + 1 + 1 + 24);
}

#[test]
fn what_was_scored_is_not_scored_again() {
    let tiny = tiny("*'blue square'*", "echo '{\"score\": NaN}'", "");
    tiny.expect(&RUN, 0, &[]);
    let (asked, starts) = (lines(&tiny, "log"), lines(&tiny, "starts"));
    let before = fs::read(tiny.path("out/rewards/rewards.jsonl")).unwrap();
    tiny.expect(&RUN, 0, &["score: already done"]);
    assert_eq!(lines(&tiny, "starts"), starts);
    // The stage is done again: only the four that failed are asked for.
    fs::remove_dir_all(tiny.path("out/rewards")).unwrap();
    tiny.expect(&RUN, 0, &["4 scores are missing"]);
    assert_eq!(lines(&tiny, "log"), asked + 4);
    assert_eq!(fs::read(tiny.path("out/rewards/rewards.jsonl")).unwrap(), before);
    // What is damaged is asked again, and says so.
    fs::remove_dir_all(tiny.path("out/rewards")).unwrap();
    tiny.write("out/cache/scores.jsonl", "{\"image\": 1}\n{}\n");
    tiny.expect(&RUN, 0, &["scores.jsonl, line 1 and 1 more", "asked again"]);
    assert_eq!(lines(&tiny, "log"), asked + 4 + 32);
    assert_eq!(fs::read(tiny.path("out/rewards/rewards.jsonl")).unwrap(), before);
}

#[test]
fn a_reward_without_any_score_stops_the_run_with_its_words() {
    let tiny = tiny("*", "echo '{\"error\": \"no model\"}'", "");
    let words = ["rewards.tiny: none of 32 pictures got a score", "it says: no model"];
    tiny.expect(&RUN, 1, &words);
    tiny.write("score.sh", "import torch");
    // After three starts nothing more is tried.
    tiny.expect(&RUN, 1, &["none of 32 pictures", "standard error"]);
    tiny.write("score.sh", "echo start >> starts2; exit 1");
    tiny.expect(&RUN, 1, &["exit status: 1"]);
    assert_eq!(lines(&tiny, "starts2"), 3);
}

#[test]
fn what_cannot_work_is_refused_before_anything_starts() {
    let refuse = |keys: &str, words: &[&str]| {
        let tiny = Tiny::new();
        let recipe = RECIPE.replace("weights = \"model/rewards/pocket-hps\"", keys);
        tiny.write("recipe.toml", recipe);
        tiny.expect(&RUN, 2, words);
        tiny.expect(&["run", "recipe.toml", "--dry-run"], 2, words);
        assert!(!tiny.path("out").exists());
    };
    refuse(
        "weights = \"model\"\ncommand = [\"sh\"]",
        &["`rewards[0]`", "given weights and command", "at most one"],
    );
    refuse("url = \"http://127.0.0.1/\"\ncommand = [\"sh\"]", &["given command and url"]);
    refuse("command = []", &["`rewards[0].command` is empty", "[\"python3\", \"score.py\"]"]);
    refuse("command = [\" \", \"x\"]", &["`rewards[0].command` is empty"]);
    refuse("command = \"python3 score.py\"", &["`rewards[0].command`", "sequence"]);
    refuse("command = [\"no-such-program\"]", &["rewards.tiny.command", "no-such-program", "PATH"]);
    refuse("command = [\"./train.txt\"]", &["rewards.tiny.command", "not an executable file"]);
    refuse("command = [\"sh\"]\ntimeout_seconds = 0", &["`rewards[0].timeout_seconds` is 0"]);
    refuse("command = [\"sh\"]\nversion = \" \"", &["`rewards[0].version` is empty"]);
    refuse("command = [\"sh\"]\nretries = 3", &["`rewards[0].retries`", "beside url only"]);
    refuse("command = [\"sh\"]\non_failure = \"panic\"", &["on_failure", "panic", "drop"]);
    refuse("timeout_seconds = 3", &["`rewards[0].timeout_seconds`", "command or url"]);
    refuse("url = \"http://127.0.0.1/\"\nmodel = \"x\"", &["`rewards[0].model`", "openai"]);
    refuse("url = \"http://127.0.0.1/\"\napi = \"openai\"", &["`rewards[0].model` is missing"]);
    refuse("url = \" \"", &["`rewards[0].url` is empty"]);
    let secret = "url = \"http://127.0.0.1/\"\napi_key_env = \"sk-secret\"";
    refuse(secret, &["`rewards[0].api_key_env` is not a name", "never the key itself"]);
}

#[test]
fn score_prints_every_reward_of_every_image_and_what_is_missing() {
    let tiny = tiny("*00001.png*", "echo '{\"error\": \"no star\"}'", "");
    let pictures = ["--prompt", "a", "--prompt", "b", "--output", "p", "--steps", "1"];
    tiny.expect(&[&["sample", "--model", "model"], &pictures[..]].concat(), 0, &[]);
    let base = ["score", "p/00000.png", "p/00001.png", "--prompt", "a red circle", "--reward"];
    let with = |more: &[&'static str]| [&base[..], more].concat();
    let out = tiny.expect(&with(&["mine=command:sh score.sh", "--reward", "pocket-hps"]), 0, &[]);
    let lines: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(lines[0]["scores"]["mine"].is_number() && lines[0].get("missing").is_none(), "{out}");
    assert!(lines[1]["scores"]["pocket-hps"].is_number(), "{out}");
    assert_eq!(lines[1]["missing"]["mine"], "it says: no star");
    assert_eq!(fs::read_to_string(tiny.path("starts")).unwrap(), "start\n");
    let list =
        "mine=command:[\"sh\", \"-c\", \"read -r l; echo '{\\\"score\\\": 0.5}'; read -r l\"]";
    let out = tiny.expect(&["score", "p/00000.png", "--prompt", "a", "--reward", list], 0, &[]);
    assert!(out.contains("\"mine\":0.5"), "{out}");
    let hang = ["mine=command:sleep 100", "--reward-timeout", "0.2"];
    let out =
        tiny.expect(&with(&hang), 1, &["1 of 1 scores are missing", "no picture got a score"]);
    assert!(out.contains("no answer within 0.2 seconds"), "{out}");
    tiny.expect(&with(&["x=command:no-such-program"]), 2, &["no-such-program", "PATH"]);
    tiny.expect(&with(&["x=command:"]), 2, &["--reward x", "x.command", "empty"]);
    tiny.expect(&with(&["x=command:[\"sh\", 1]"]), 2, &["not a JSON list of texts"]);
    tiny.expect(&with(&["A B=command:sh"]), 2, &["`A B` is not the name of a reward"]);
    tiny.expect(&with(&["x=command:sh", "--reward-timeout", "nan"]), 2, &["timeout_seconds"]);
}
