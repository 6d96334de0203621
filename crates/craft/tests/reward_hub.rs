//! Reward weights by their names on the hub, against servers on this machine.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "support/hub.rs"]
mod server;
mod support;

use std::fs;

use serde_json::Value;
use server::{COMMIT, Files, Server};
use support::Tiny;

/// Runs craft with the hub at an address. Returns exit code, standard output and error.
fn craft(tiny: &Tiny, args: &[&str], endpoint: &str, offline: bool) -> (i32, String, String) {
    let mut command = tiny.craft(args);
    command.env("HF_ENDPOINT", endpoint).env("HF_HUB_OFFLINE", if offline { "1" } else { "0" });
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const NOWHERE: &str = "http://127.0.0.1:9";

/// A hub whose every repository holds a tiny reward, and what else is not to be fetched.
fn hub(tiny: &Tiny) -> Server {
    let mut files = Files::of_folder(&tiny.path("model/rewards/pocket-pick"));
    files.0.insert("pytorch_model.bin".into(), vec![1; 100]);
    files.0.insert("onnx/model.onnx".into(), vec![1; 100]);
    Server::new(move |r| match r.path.starts_with("/api/models/") {
        true => files.list(),
        false => files.file(r).unwrap(),
    })
}

#[test]
fn craft_scores_with_a_repository_and_its_cached_copy() {
    let tiny = Tiny::new();
    let hub = hub(&tiny);
    tiny.expect(&["sample", "--model", "pocket", "--prompt", "a", "--output", "a.png"], 0, &[]);
    let score = |reward: &str, endpoint: &str, offline| {
        let args = ["score", "a.png", "--prompt", "a red circle", "--reward", reward];
        craft(&tiny, &args, endpoint, offline)
    };
    let value = |out: &str| -> f64 {
        let line: Value = serde_json::from_str(out.trim()).unwrap();
        let scores = line["scores"].as_object().unwrap();
        scores.values().next().unwrap().as_f64().unwrap()
    };
    let (code, _, error) = score("mine=owner/name", NOWHERE, false);
    assert!(
        code == 3 && error.contains("reward mine") && error.contains("does not answer"),
        "{error}"
    );
    assert!(error.contains("no local file or folder owner/name"), "{error}");

    let (code, out, error) = score("mine=owner/name", &hub.address, false);
    assert!(code == 0 && error.contains(COMMIT), "{error}");
    let asked: Vec<String> = hub.requests().into_iter().map(|r| r.path).collect();
    assert!(asked.iter().any(|path| path.ends_with("model.safetensors")), "{asked:?}");
    assert!(!asked.iter().any(|p| p.contains(".bin") || p.contains("onnx")), "{asked:?}");
    let (_, local, _) = score("mine=model/rewards/pocket-pick", NOWHERE, true);
    assert_eq!(value(&out), value(&local));
    // Offline; pinned to the commit, when the hub is not asked; one of its files.
    assert_eq!(value(&score("mine=owner/name", NOWHERE, true).1), value(&local));
    let pinned = format!("mine=owner/name@{COMMIT}");
    assert_eq!(value(&score(&pinned, &hub.address, false).1), value(&local));
    assert!(hub.requests().is_empty());
    let (code, _, error) = score("mine=owner/name/gone.pt", &hub.address, false);
    assert!(code == 3 && error.contains("no such file"), "{error}");
}

#[test]
fn a_published_name_stands_for_its_repository_and_commit() {
    let tiny = Tiny::new();
    let hub = hub(&tiny);
    tiny.expect(&["sample", "--model", "pocket", "--prompt", "a", "--output", "a.png"], 0, &[]);
    let args = ["score", "a.png", "--prompt", "a red circle", "--reward", "pickscore"];
    let (code, out, error) = craft(&tiny, &args, &hub.address, false);
    assert!(code == 0 && out.contains("\"pickscore\""), "{error}");
    let first = hub.requests().remove(0).path;
    let wanted = "yuvalkirstain/PickScore_v1/revision/a4e4367c6dfa7288a00c550414478f865b875800";
    assert!(first.contains(wanted), "{first}");
}

#[test]
fn a_run_keeps_the_commits_of_its_rewards() {
    let tiny = Tiny::new();
    let hub = hub(&tiny);
    let recipe = fs::read_to_string(tiny.path("recipe.toml")).unwrap();
    tiny.write("hub.toml", recipe.replace("model/rewards/pocket-hps", "owner/name"));
    let run = ["run", "hub.toml", "--out", "out"];
    let (code, _, error) = craft(&tiny, &run, &hub.address, false);
    assert_eq!(code, 0, "{error}");
    let json = |file: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(tiny.path(file)).unwrap()).unwrap()
    };
    assert_eq!(json("out/base.json")["rewards"]["owner/name@main"], COMMIT);
    let origins = &json("out/run.json")["reward_origins"];
    assert_eq!(origins["tiny"]["commits"]["owner/name@main"], COMMIT);
    assert_eq!(origins["tiny"]["license"], "not known: that of its weights");
    // The branch moves on; the run does not, and needs the hub no more.
    fs::write(tiny.path("hf/hub/models--owner--name/refs/main"), "f".repeat(40)).unwrap();
    fs::remove_dir_all(tiny.path("out/rewards")).unwrap();
    hub.requests();
    let (code, _, error) = craft(&tiny, &run, NOWHERE, false);
    assert_eq!(code, 0, "{error}");
    assert!(hub.requests().is_empty());
}
