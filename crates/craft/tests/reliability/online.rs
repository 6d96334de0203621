//! Methods that draw as they go: stopped and killed within an iteration, they end as if they had not been.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::process::Process;
use crate::support::Tiny;

const METHODS: [&str; 2] = ["ddpo", "spo"];

fn compare(out: &str) -> Vec<&str> {
    let set = [
        "--set",
        "generate.steps=6",
        "--set",
        "generate.batch=4",
        "--set",
        "train.steps=14",
        "--set",
        "train.batch=16",
    ];
    let args = ["compare", "recipe.toml", "--methods", "ddpo,spo", "--seeds", "1", "--out", out];
    [&args[..], &set].concat()
}

#[test]
fn methods_that_draw_keep_what_they_drew() {
    let tiny = Tiny::new();
    tiny.expect(&compare("whole"), 0, &[]);
    let drawn = |method: &str, name: &str| {
        let folder = tiny.path(&format!("out/seed-1/methods/{method}/.state-drawn"));
        let names = fs::read_dir(folder).into_iter().flatten().flatten();
        names.map(|e| e.file_name()).any(|n| n.to_string_lossy() == format!("{name}.safetensors"))
    };
    // After its first batch, and after the last of the first and of the second iteration of six steps; the
    // delays reach into what comes then.
    for (method, name, milliseconds, signal) in [
        ("ddpo", "0-0-4", 0, "-KILL"),
        ("ddpo", "0-8-12", 1, "-INT"),
        ("ddpo", "0-12-16", 15, "-INT"),
        ("ddpo", "1-12-16", 25, "-KILL"),
        ("spo", "0-pairs", 5, "-INT"),
        ("spo", "1-pairs", 15, "-KILL"),
        ("spo", "2-pairs", 0, "-INT"),
    ] {
        let mut process = Process::start(&tiny, &compare("out"));
        process.until(|| drawn(method, name));
        sleep(Duration::from_millis(milliseconds));
        assert!(process.signal(signal), "it was stopped on the way");
        let code = process.end();
        assert!(code.is_none() || code == Some(130), "{method} {name}: {code:?}");
    }
    tiny.expect(&compare("out"), 0, &[]);
    for method in METHODS {
        for file in ["scores.jsonl", "diffusion_pytorch_model.safetensors"] {
            let read = |out: &str| {
                fs::read(tiny.path(&format!("{out}/seed-1/methods/{method}/{file}"))).unwrap()
            };
            assert!(read("whole") == read("out"), "{method}: {file} differs");
        }
        let result = |out: &str| {
            let path = tiny.path(&format!("{out}/seed-1/methods/{method}/result.json"));
            let found: serde_json::Value =
                serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
            (found["images_generated"].clone(), found["sample_passes"].clone())
        };
        assert_eq!(result("whole"), result("out"), "{method}");
        let folder = tiny.path(&format!("out/seed-1/methods/{method}"));
        let names = fs::read_dir(folder).unwrap();
        let drawn = |entry: fs::DirEntry| entry.file_name().to_string_lossy().ends_with("-drawn");
        assert!(!names.flatten().any(drawn), "what was drawn is removed at the end");
    }
}
