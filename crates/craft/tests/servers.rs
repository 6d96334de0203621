//! Rewards and wordings by servers, from the recipe to the report.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../../craft-external/tests/support/mod.rs"]
mod server;
mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use server::{Reply, Request, Server};
use support::{RECIPE, Tiny};

const RUN: [&str; 4] = ["run", "recipe.toml", "--out", "out"];
const WEIGHTS: &str = "weights = \"model/rewards/pocket-hps\"";

fn json(tiny: &Tiny, file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(tiny.path(file)).unwrap()).unwrap()
}

/// Scores a picture by its bytes; none for a blue square.
fn scores(request: &Request) -> Reply {
    let body: Value = serde_json::from_str(&request.body).unwrap();
    let score = |item: &Value| {
        let bytes = item["image"].as_str().unwrap().bytes();
        let sum = bytes.enumerate().map(|(i, b)| (i % 7) as u64 * u64::from(b)).sum::<u64>();
        if item["prompt"] == "a blue square" { json!(null) } else { json!(sum % 997) }
    };
    let scores: Vec<Value> = body["items"].as_array().unwrap().iter().map(score).collect();
    Reply::ok(json!({ "scores": scores }).to_string())
}

/// Fails where a file below the folder holds the text.
fn nowhere(dir: &Path, text: &str) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            nowhere(&path, text);
        } else {
            let bytes = fs::read(&path).unwrap();
            let found = bytes.windows(text.len()).any(|part| part == text.as_bytes());
            assert!(!found, "{} holds it", path.display());
        }
    }
}

#[test]
fn a_server_scores_a_run_and_its_key_is_written_nowhere() {
    let server = Server::new(|_, request| {
        let allowed = request.head.to_lowercase().contains("authorization: bearer s3cr3t-k3y");
        if allowed { scores(request) } else { Reply::status("401 Unauthorized") }
    });
    let tiny = Tiny::new();
    let url = format!("url = \"{}/score\"\napi_key_env = \"REWARD_KEY\"", server.url);
    tiny.write("recipe.toml", RECIPE.replace(WEIGHTS, &url));
    let words = ["rewards.tiny.url", "REWARD_KEY", "not set"];
    tiny.expect(&RUN, 2, &words);
    assert!(!tiny.path("out").exists() && server.requests().is_empty());
    let output = tiny.craft(&RUN).env("REWARD_KEY", "s3cr3t-k3y").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    assert!(error.contains("32 candidates by tiny; 4 scores are missing"), "{error}");
    let stage = json(&tiny, "out/rewards/stage.json");
    let reason = stage["dropped"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("tiny: the score is null"), "{reason}");
    assert!(server.requests().iter().all(|r| r.head.starts_with("POST /score ")));
    nowhere(&tiny.path("out"), "s3cr3t-k3y");
}

#[test]
fn addresses_that_cannot_be_used_are_refused_before_anything_starts() {
    let refuse = |keys: &str, words: &[&str]| {
        let tiny = Tiny::new();
        tiny.write("recipe.toml", RECIPE.replace(WEIGHTS, keys));
        tiny.expect(&RUN, 2, words);
        tiny.expect(&["run", "recipe.toml", "--dry-run"], 2, words);
        assert!(!tiny.path("out").exists());
    };
    refuse(
        "url = \"http://192.0.2.1/score\"",
        &["rewards.tiny.url", "192.0.2.1 is another machine", "allow_remote"],
    );
    refuse("url = \"127.0.0.1/score\"", &["rewards.tiny.url", "not an address", "http://"]);
    refuse("url = \"http://a:b@127.0.0.1/\"", &["name or password", "api_key_env"]);
    refuse(
        "url = \"http://192.0.2.1/\"\nallow_remote = true\napi_key_env = \"CRAFT_POCKET_DIR\"",
        &["without encryption", "https://"],
    );
    let tiny = Tiny::new();
    let text = "[expand]\nkind = \"openai\"\nbase_url = \"http://192.0.2.1/v1\"\nmodel = \"m\"";
    tiny.write("recipe.toml", RECIPE.replace("[expand]\ntemplates = \"pocket\"", text));
    tiny.expect(&RUN, 2, &["expand.base_url", "another machine"]);
    for (set, words) in [
        ("expand.base_url= ", "`expand.base_url` is empty"),
        ("expand.temperature=-1", "`expand.temperature` is -1"),
        ("expand.retries=99", "`expand.retries` is 99"),
        ("expand.kind=template", "`expand.base_url` is given"),
        ("expand.file=x.jsonl", "`expand.file` is `x.jsonl`"),
        ("expand.api_key_env=sk-123", "never the key itself"),
    ] {
        tiny.expect(&["run", "recipe.toml", "--dry-run", "--set", set], 2, &[words]);
    }
}

/// Four wordings of whatever is asked for.
fn wordings(request: &Request) -> Reply {
    let body: Value = serde_json::from_str(&request.body).unwrap();
    let prompt = body["messages"][1]["content"].as_str().unwrap();
    let list: Vec<String> = ["crisp", "vivid", "plain"].map(|w| format!("{w}, {prompt}")).to_vec();
    let content = json!(list).to_string();
    Reply::ok(json!({ "choices": [{ "message": { "content": content } }] }).to_string())
}

#[test]
fn a_language_model_words_the_prompts_once() {
    let rubbish = || {
        Reply::ok(json!({ "choices": [{ "message": { "content": "As you wish!" } }] }).to_string())
    };
    let down = Arc::new(AtomicBool::new(true));
    let is_down = Arc::clone(&down);
    let server = Server::new(move |n, request| {
        if n > 3 && is_down.load(Ordering::SeqCst) {
            return Reply::status("400 Bad Request");
        }
        let stubborn = request.body.contains("\"a green star\"");
        if n == 1 || stubborn { rubbish() } else { wordings(request) }
    });
    let tiny = Tiny::new();
    let text = format!(
        "[expand]\nkind = \"openai\"\nbase_url = \"{}/v1\"\nmodel = \"m\"\nretries = 2",
        server.url
    );
    tiny.write("recipe.toml", RECIPE.replace("[expand]\ntemplates = \"pocket\"", &text));
    // The server fails half-way: what it answered is kept.
    tiny.expect(&RUN, 1, &["expand.base_url", "400 Bad Request", "run the same command again"]);
    assert!(!tiny.path("out/expanded/stage.json").exists());
    let before = server.requests().len();
    down.store(false, Ordering::SeqCst);
    tiny.expect(
        &RUN,
        0,
        &["21 wordings of 8 prompts; 3 malformed answers refused, 1 prompts without"],
    );
    let asked: Vec<Request> = server.requests().split_off(before);
    assert!(!asked.iter().any(|r| r.body.contains("a red circle")), "asked twice");
    let stage = json(&tiny, "out/expanded/stage.json");
    assert_eq!(
        (&stage["counts"]["unworded"], &stage["counts"]["malformed_answers"]),
        (&json!(1), &json!(3))
    );
    let reason = stage["dropped"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("not a JSON list: As you wish!"), "{reason}");
    let expanded = fs::read_to_string(tiny.path("out/expanded/expanded.jsonl")).unwrap();
    assert!(expanded.contains("\"variant\":1,\"text\":\"crisp, a red circle\""), "{expanded}");
    // Done again without a server: all but the stubborn prompt are known.
    fs::remove_dir_all(tiny.path("out/expanded")).unwrap();
    let before = server.requests().len();
    tiny.expect(&RUN, 0, &["21 wordings of 8 prompts"]);
    assert_eq!(server.requests().len(), before + 3);
    assert_eq!(fs::read_to_string(tiny.path("out/expanded/expanded.jsonl")).unwrap(), expanded);
}

#[test]
fn score_asks_servers() {
    let server = Server::new(|_, request| scores(request));
    let tiny = Tiny::new();
    let sample =
        ["sample", "--model", "model", "--prompt", "x", "--steps", "1", "--output", "a.png"];
    tiny.expect(&sample, 0, &[]);
    let reward = format!("mine={}", server.url);
    let out =
        tiny.expect(&["score", "a.png", "--prompt", "a red star", "--reward", &reward], 0, &[]);
    let line: Value = serde_json::from_str(&out).unwrap();
    assert!(line["scores"]["mine"].is_number(), "{out}");
    let remote = ["score", "a.png", "--prompt", "x", "--reward", "mine=http://192.0.2.1/"];
    tiny.expect(&remote, 2, &["--reward mine", "another machine"]);
    let bad = ["score", "a.png", "--prompt", "x", "--reward", "mine=http://"];
    tiny.expect(&bad, 2, &["not an address"]);
}
