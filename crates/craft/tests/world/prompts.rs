//! Prompt files as they are published, files without end, and what a run says of its prompts and samples.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support::Tiny;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/prompts").join(name)
}

/// How many training prompts a dry run finds in a file.
#[track_caller]
fn found(tiny: &Tiny, file: &str) -> usize {
    let set = format!("prompts.train={file}");
    let plan = tiny.expect(&["run", "recipe.toml", "--dry-run", "--set", &set], 0, &[]);
    let line = plan.lines().find(|l| l.contains("training prompts")).unwrap();
    line.trim_start_matches("# ").split(' ').next().unwrap().parse().unwrap()
}

#[track_caller]
fn refused(tiny: &Tiny, file: &str, words: &[&str]) {
    let set = format!("prompts.train={file}");
    let words: Vec<&str> = words.iter().copied().chain(["prompts.train"]).collect();
    tiny.expect(&["run", "recipe.toml", "--out", "out", "--set", &set], 3, &words);
    assert!(!tiny.path("out").exists(), "{file}: a refused list left a run folder");
}

#[test]
fn published_lists_are_read_with_their_categories() {
    let tiny = Tiny::new();
    let utf16: Vec<u8> =
        "\u{feff}a red ring\r\na blue dot\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (name, contents, count) in [
        ("a.yaml", "- a red ring\n- prompt: a blue dot\n  category: dots\n".as_bytes(), 2),
        ("cr.txt", b"a red ring\ra blue dot\ra green dot", 3),
        ("utf16.txt", &utf16, 2),
        ("drawbench.csv", b"Prompts,Category\nA red ring.,Colors\n\"One dot, two rings.\",Counting\n", 2),
        ("nan.jsonl", b"{\"prompt\": \"a red ring\", \"score\": NaN}\n{\"prompt\": NaN}\n", 1),
        ("hpd.json", b"{\"anime\": [\"a red ring\"], \"photo\": [\"a blue dot\"]}", 2),
        ("coco.json", b"{\"images\": [{\"id\": 1}], \"annotations\": [{\"id\": 1, \"caption\": \"a red ring\"}]}", 1),
    ] {
        tiny.write(name, contents);
        assert_eq!(found(&tiny, name), count, "{name}");
    }
    // Categories arrive in the run.
    let set = ["--set", "prompts.train=drawbench.csv", "--set", "train.steps=1"];
    let args = [&["run", "recipe.toml", "--out", "out"][..], &set].concat();
    let _ = tiny.craft(&args).output().unwrap();
    let prompts = fs::read_to_string(tiny.path("out/prompts/prompts.jsonl")).unwrap();
    let first: Value = serde_json::from_str(prompts.lines().next().unwrap()).unwrap();
    assert_eq!((&first["text"], &first["category"]), (&"A red ring.".into(), &"Colors".into()));
}

#[test]
fn parquet_of_every_kind() {
    let tiny = Tiny::new();
    for name in [
        "pictures-snappy",
        "categories-zstd",
        "large-gzip",
        "delta-lz4",
        "lengths-none",
        "required",
        "dictionary-type",
    ] {
        let file = format!("{name}.parquet");
        fs::copy(fixture(&file), tiny.path(&file)).unwrap();
        assert_eq!(found(&tiny, &file), 4, "{name}");
    }
    fs::copy(fixture("required.parquet"), tiny.path("by-contents")).unwrap();
    assert_eq!(found(&tiny, "by-contents"), 4);
    for (name, words) in [
        ("brotli", &["brotli.parquet", "BROTLI", "snappy"][..]),
        ("lists", &["captions", "lists"]),
        ("numbers", &["prompt", "INT64", "expected texts"]),
        ("no-column", &["no column", "url, score"]),
        ("cut", &["cut.parquet", "download it again"]),
    ] {
        let file = format!("{name}.parquet");
        fs::copy(fixture(&file), tiny.path(&file)).unwrap();
        refused(&tiny, &file, words);
    }
    // Parts of a set: by a pattern, or as a folder that holds nothing else.
    fs::create_dir(tiny.path("data")).unwrap();
    for part in ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"] {
        fs::copy(fixture(part), tiny.path("data").join(part)).unwrap();
    }
    assert_eq!(found(&tiny, "data"), 3, "a prompt of both parts counts once");
    assert_eq!(found(&tiny, "data/train-*.parquet"), 3);
    fs::copy(fixture("required.parquet"), tiny.path("data/test-0.parquet")).unwrap();
    refused(&tiny, "data", &["several parts", "test, train"]);
    refused(&tiny, "data/val-*.parquet", &["no file", "pattern"]);
    fs::create_dir(tiny.path("empty")).unwrap();
    refused(&tiny, "empty", &["no file that ends in"]);
}

/// Damage anywhere in a parquet file is refused or harmless, and stops nothing.
#[test]
fn damaged_parquet_is_refused() {
    let tiny = Tiny::new();
    for name in ["pictures-snappy", "delta-lz4", "large-gzip"] {
        let whole = fs::read(fixture(&format!("{name}.parquet"))).unwrap();
        for i in 0..12 {
            let mut bytes = whole.clone();
            let at = (i * 7919 + 13) % bytes.len();
            bytes[at] ^= 0x55;
            bytes[(at * 31) % whole.len()] = 0xff;
            tiny.write("d.parquet", &bytes);
            let args = ["run", "recipe.toml", "--dry-run", "--set", "prompts.train=d.parquet"];
            let output = tiny.craft(&args).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(matches!(output.status.code(), Some(0 | 3)), "{name} {at}: {error}");
            assert!(!error.contains("panicked"), "{name} {at}: {error}");
        }
    }
}

#[test]
fn other_formats_and_endless_files_are_refused() {
    let tiny = Tiny::new();
    for (name, contents, words) in [
        ("a.xlsx", &b"PK\x03\x04"[..], &["zip file", "unpack"][..]),
        ("a.arrow", b"ARROW1", &["Arrow", ".parquet"]),
        ("a.jsonl.gz", b"\x1f\x8b", &["gzip", "unpack"]),
        ("page.csv", b"<!DOCTYPE html>", &["web page"]),
        ("lfs.parquet", b"version https://git-lfs.github.com/spec/v1\n", &["git lfs pull"]),
        ("alias.yaml", b"- &a x\n- *a\n", &["line 2", "aliases"]),
        ("list.txt", b"[\n\"a\"]\n", &["JSON", ".json"]),
        ("latin.txt", b"a red ring\rcaf\xe9\r", &["line 2", "UTF-8"]),
    ] {
        tiny.write(name, contents);
        refused(&tiny, name, &[&[name], words].concat());
    }
    tiny.write("long.txt", format!("a red ring\n{}\n", "word ".repeat(2 << 20)));
    refused(&tiny, "long.txt", &["line 2", "10000"]);
    refused(&tiny, "gone.txt", &["gone.txt", "cannot be read"]);
    if cfg!(unix) {
        refused(&tiny, "/dev/zero", &["/dev/zero", "device"]);
        tiny.expect(&["run", "/dev/zero", "--out", "out"], 3, &["/dev/zero", "device"]);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_long_line_takes_little_memory() {
    let tiny = Tiny::new();
    tiny.write("long.txt", "word ".repeat(20 << 20));
    // 100 MB of address space for the file itself; the tokenizer would take gigabytes.
    let program = env!("CARGO_BIN_EXE_craft");
    let line = format!(
        "ulimit -v 3000000; exec {program} run recipe.toml --out out --set prompts.train=long.txt --threads 1"
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &line])
        .current_dir(tiny.path(""))
        .env("CRAFT_POCKET_DIR", tiny.path("model"))
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(error.contains("line 1 has") && error.len() < 2000, "{error}");
}

#[test]
fn the_end_of_a_run_says_what_it_shows_and_what_is_missing() {
    let tiny = Tiny::new();
    let args = ["run", "recipe.toml", "--out", "out", "--set", "select.max_samples=24"];
    let end = tiny.expect(&args, 0, &["warning:", "select.max_samples"]);
    for words in [
        "verdict: ",
        "to say that it worked, this run lacks",
        "at least 50 evaluation prompts: this run has 4",
        "of pictures got better",
        "warning: ",
        "samples asked for",
        "next: craft sample --model out/aligned",
        "craft export out --format single-file",
    ] {
        assert!(end.contains(words), "`{words}` is not in:\n{end}");
    }
    let run: Value =
        serde_json::from_str(&fs::read_to_string(tiny.path("out/run.json")).unwrap()).unwrap();
    assert_ne!(run["verdict"]["level"], "good");
    assert!(run["verdict"]["missing"].as_array().unwrap().len() > 1, "{run:#}");
    assert!(run["warnings"][0].as_str().unwrap().contains("candidates"));
    let page = fs::read_to_string(tiny.path("out/report/index.html")).unwrap();
    assert!(page.contains("this run lacks") && page.contains("samples asked for"));
    assert!(!page.contains("It worked"));
    // Training took no longer than the stage.
    let last = |run: &str| -> f64 {
        let text = fs::read_to_string(tiny.path("out/metrics.jsonl")).unwrap();
        let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        rows.iter().rfind(|r| r["run"] == run).unwrap()["seconds"].as_f64().unwrap()
    };
    for (arm, stage) in [("craft", "aligned"), ("control", "control")] {
        let path = tiny.path(&format!("out/{stage}/stage.json"));
        let stage: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        assert!(last(arm) <= stage["seconds"].as_f64().unwrap(), "{arm}");
    }
}
