//! Servers that score, well-behaved and not.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::disallowed_methods)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use craft_external::{
    Answer, HttpReward, Item, Scored, ServerOptions, VisionOptions, VisionReward, Wording,
    WordingModel, WordingOptions,
};
use serde_json::{Value, json};
use support::{Reply, Server};

/// A 2×2 picture.
const PIXELS: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

fn item(prompt: &str) -> Item<'_> {
    Item { pixels: &PIXELS, width: 2, height: 2, path: None, prompt }
}

fn options(url: &str, retries: usize) -> ServerOptions {
    ServerOptions {
        url: url.to_owned(),
        timeout: Duration::from_secs(20),
        retries,
        ..ServerOptions::default()
    }
}

fn reward(server: &Server) -> HttpReward {
    HttpReward::new(&options(&server.url, 0), 8).unwrap()
}

#[track_caller]
fn missing(scored: &Scored, words: &[&str]) {
    let reason = scored.as_ref().unwrap_err();
    for word in words {
        assert!(reason.contains(word), "`{word}` is not in: {reason}");
    }
}

/// The prompts of a request.
fn prompts(body: &str) -> Vec<String> {
    let value: Value = serde_json::from_str(body).unwrap();
    let items = value["items"].as_array().unwrap();
    items.iter().map(|item| item["prompt"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn pictures_and_prompts_go_in_and_scores_come_out_in_order() {
    let server = Server::new(|_, request| {
        let lengths: Vec<usize> = prompts(&request.body).iter().map(String::len).collect();
        Reply::ok(json!({ "scores": lengths }).to_string())
    });
    let mut reward = HttpReward::new(&options(&format!("{}/score", server.url), 0), 2).unwrap();
    let scores = reward.score(&["a", "bb", "ccc"].map(item));
    assert_eq!(scores, [Ok(1.0), Ok(2.0), Ok(3.0)]);
    let requests = server.requests();
    assert_eq!(requests.len(), 2, "two pictures a request");
    assert!(requests[0].head.starts_with("POST /score HTTP/1.1"), "{}", requests[0].head);
    assert!(!requests[0].head.to_lowercase().contains("authorization"));
    let body: Value = serde_json::from_str(&requests[0].body).unwrap();
    let image = body["items"][1]["image"].as_str().unwrap();
    let png = base64::engine::general_purpose::STANDARD.decode(image).unwrap();
    assert_eq!(craft_store::image::decode(&png).unwrap().data, PIXELS);
}

#[test]
fn single_scores_may_be_missing() {
    let server = Server::new(|_, _| {
        Reply::ok(
            r#"{"scores": [1, null, NaN, 1e999, {"error": "no face"}, {"score": 2}, "x", true]}"#,
        )
    });
    let scores = reward(&server).score(&[item("a"); 8]);
    assert_eq!((&scores[0], &scores[5]), (&Ok(1.0), &Ok(2.0)));
    for i in [1, 2, 3] {
        missing(&scores[i], &["null, NaN or infinite"]);
    }
    missing(&scores[4], &["it says: no face"]);
    missing(&scores[6], &["the score is \"x\""]);
    missing(&scores[7], &["the score is true"]);
    assert_eq!(server.requests().len(), 1);
}

/// One picture that the server fails on costs its own score only.
#[test]
fn a_failing_request_is_taken_apart() {
    let server = Server::new(|_, request| match prompts(&request.body) {
        all if all.contains(&"bad".to_owned()) => Reply::status("500 Internal Server Error"),
        all => Reply::ok(json!({ "scores": vec![1.0; all.len()] }).to_string()),
    });
    let scores = reward(&server).score(&["a", "bad", "c"].map(item));
    assert_eq!((&scores[0], &scores[2]), (&Ok(1.0), &Ok(1.0)));
    missing(&scores[1], &["500 Internal Server Error", "some words"]);
    assert_eq!(server.requests().len(), 4);
}

#[test]
fn malformed_answers_are_missing_scores() {
    for (body, words) in [
        ("<html>", &["not JSON", "<html>"][..]),
        ("", &["not JSON"]),
        ("[1]", &["it answered [1]", "{\"scores\": [...]}"]),
        ("{\"scores\": 1}", &["expected {\"scores\": [...]}"]),
        ("{\"scores\": []}", &["0 scores for 1 pictures"]),
        ("{\"scores\": [1, 2]}", &["2 scores for 1 pictures"]),
    ] {
        let server = Server::new(move |_, _| Reply::ok(body));
        missing(&reward(&server).score(&[item("a")])[0], words);
    }
}

#[test]
fn time_and_size_are_bounded() {
    for reply in [|| Reply::Silence, || Reply::Drip] {
        let server = Server::new(move |_, _| reply());
        let short =
            ServerOptions { timeout: Duration::from_millis(400), ..options(&server.url, 3) };
        let start = Instant::now();
        let scores = HttpReward::new(&short, 1).unwrap().score(&[item("a")]);
        missing(&scores[0], &["no answer within 0.4 seconds"]);
        assert!(start.elapsed() < Duration::from_secs(8));
        assert_eq!(server.requests().len(), 1, "what is slow is not asked again");
    }
    let server = Server::new(|_, _| Reply::Endless);
    missing(&reward(&server).score(&[item("a")])[0], &["longer than 8388608 bytes"]);
}

#[test]
fn redirects_are_not_followed() {
    let target = Server::new(|_, _| Reply::ok("{\"scores\": [1]}"));
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"] {
        let location = format!("Location: {}/\r\n", target.url);
        let server = Server::new(move |_, _| Reply::Full(status, location.clone(), String::new()));
        let scores = reward(&server).score(&[item("a")]);
        missing(&scores[0], &["redirects", &target.url, "not followed"]);
    }
    assert!(target.requests().is_empty());
}

#[test]
fn a_busy_server_is_asked_again_a_bounded_number_of_times() {
    for first in ["429 Too Many Requests", "503 Service Unavailable"] {
        let server = Server::new(move |n, _| match n {
            0 => Reply::Full(first, "Retry-After: 1\r\n".to_owned(), String::new()),
            _ => Reply::ok("{\"scores\": [1]}"),
        });
        let start = Instant::now();
        let mut reward = HttpReward::new(&options(&server.url, 1), 8).unwrap();
        assert_eq!(reward.score(&[item("a")]), [Ok(1.0)]);
        assert!(start.elapsed() >= Duration::from_secs(1), "Retry-After was not heeded");
    }
    let server = Server::new(|_, _| Reply::status("503 Service Unavailable"));
    let mut reward = HttpReward::new(&options(&server.url, 2), 8).unwrap();
    missing(&reward.score(&[item("a")])[0], &["503", "(asked 3 times)"]);
    assert_eq!(server.requests().len(), 3);
    // A broken connection is asked again as well.
    let server =
        Server::new(|n, _| if n == 0 { Reply::Cut } else { Reply::ok("{\"scores\": [2]}") });
    let mut reward = HttpReward::new(&options(&server.url, 1), 8).unwrap();
    assert_eq!(reward.score(&[item("a")]), [Ok(2.0)]);
}

#[test]
fn three_failures_in_a_row_are_the_end() {
    let server = Server::new(|_, _| Reply::status("401 Unauthorized"));
    let mut reward = HttpReward::new(&options(&server.url, 5), 1).unwrap();
    let scores = reward.score(&[item("a"); 6]);
    missing(&scores[2], &["401 Unauthorized: some words"]);
    missing(&scores[3], &["not asked after 3 failures in a row", "401"]);
    assert_eq!(server.requests().len(), 3, "a refusal is not asked again");
    let nobody = "http://127.0.0.1:1/";
    let mut reward = HttpReward::new(&options(nobody, 0), 1).unwrap();
    missing(&reward.score(&[item("a")])[0], &[nobody, "cannot be reached"]);
}

/// A key is sent, and stands in no message even if the server quotes it.
#[test]
fn the_key_comes_from_the_environment_and_shows_nowhere() {
    // Any variable of the environment will do; this one is always set by cargo.
    let name = "CARGO_PKG_NAME";
    let key = std::env::var(name).unwrap();
    let quoted = key.clone();
    let server = Server::new(move |_, _| {
        Reply::Full("401 Unauthorized", String::new(), format!("wrong key {quoted}"))
    });
    let with = |name: &str| ServerOptions {
        api_key_env: Some(name.to_owned()),
        ..options(&server.url, 0)
    };
    let mut reward = HttpReward::new(&with(name), 1).unwrap();
    let scores = reward.score(&[item("a")]);
    missing(&scores[0], &["wrong key ***"]);
    assert!(
        !scores[0].clone().unwrap_err().contains(&key) && !format!("{reward:?}").contains(&key)
    );
    let head = server.requests()[0].head.to_lowercase();
    assert!(head.contains(&format!("authorization: bearer {key}")), "{head}");
    let error = HttpReward::new(&with("CRAFT_NO_SUCH_VARIABLE"), 1).unwrap_err().to_string();
    assert!(error.contains("CRAFT_NO_SUCH_VARIABLE") && error.contains("not set"), "{error}");
}

/// An answer of a chat completion.
fn chat(content: &str) -> Reply {
    Reply::ok(
        json!({ "choices": [{ "message": { "role": "assistant", "content": content } }] })
            .to_string(),
    )
}

#[test]
fn a_vision_model_is_asked_and_answers_strictly() {
    let server = Server::new(|n, _| match n {
        0 => chat("Yes."),
        1 => chat("no"),
        2 => chat("Yes, the picture shows it."),
        3 => Reply::ok("{\"choices\": []}"),
        _ => Reply::status("400 Bad Request"),
    });
    let question = VisionOptions {
        model: "a-model".to_owned(),
        question: "Does it show {prompt}?".to_owned(),
        answer: Answer::YesNo,
    };
    let base = format!("{}/v1/", server.url);
    let mut reward = VisionReward::new(&options(&base, 0), question).unwrap();
    let scores = reward.score(&[item("a red circle"); 5]);
    assert_eq!(scores[..2], [Ok(1.0), Ok(0.0)]);
    missing(&scores[2], &["`Yes, the picture shows it.`", "expected yes or no"]);
    missing(&scores[3], &["choices[0].message.content"]);
    missing(&scores[4], &["400 Bad Request"]);
    let request = &server.requests()[0];
    assert!(request.head.starts_with("POST /v1/chat/completions "), "{}", request.head);
    let body: Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!((&body["model"], &body["temperature"]), (&json!("a-model"), &json!(0)));
    let content = &body["messages"][1]["content"];
    assert_eq!(content[0]["text"], "Does it show a red circle?");
    let url = content[1]["image_url"]["url"].as_str().unwrap();
    assert!(url.starts_with("data:image/png;base64,iVBOR"), "{url}");
}

#[test]
fn a_language_model_words_prompts() {
    let server = Server::new(|n, _| match n {
        0 => chat("[\"a red cat at dusk\", \"a cat in oil\"]"),
        1 => chat("Sure! Here you go: a cat"),
        _ => Reply::status("404 Not Found"),
    });
    let wording = WordingOptions { model: "words".to_owned(), temperature: 0.7, variants: 2 };
    let model = WordingModel::new(&options(&server.url, 0), wording).unwrap();
    let good = Wording::Good(vec!["a red cat at dusk".to_owned(), "a cat in oil".to_owned()]);
    assert_eq!(model.ask("a cat").unwrap(), good);
    match model.ask("a cat").unwrap() {
        Wording::Malformed(reason) => assert!(reason.contains("not a JSON list"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(model.ask("a cat").unwrap_err().contains("404"));
    let body: Value = serde_json::from_str(&server.requests()[0].body).unwrap();
    assert_eq!(body["temperature"], 0.7);
    assert_eq!(body["messages"][1]["content"], "a cat");
    assert!(body["messages"][0]["content"].as_str().unwrap().contains("Write 2 richer"));
}

/// The example of the documentation.
#[test]
fn the_python_example_scores() {
    if !Command::new("python3").arg("--version").output().is_ok_and(|o| o.status.success()) {
        return eprintln!("skipped: there is no python3");
    }
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples/http_reward.py");
    let mut command = Command::new("python3");
    command.arg(example).arg("0").stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.trim().strip_prefix("listening on port ").unwrap();
    let mut reward =
        HttpReward::new(&options(&format!("http://127.0.0.1:{port}/score"), 0), 8).unwrap();
    let scores = reward.score(&[item("a"), item("b")]);
    child.kill().unwrap();
    child.wait().unwrap();
    let score = *scores[0].as_ref().unwrap();
    assert!(score < 0.0 && scores[0] == scores[1], "{scores:?}");
}
